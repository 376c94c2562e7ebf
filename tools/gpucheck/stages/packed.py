"""Packed inputs of mixed lengths compared with the same number of inputs padded to the longest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from precast.tools.gpucheck.clock import host_seconds, median_ms
from precast.tools.gpucheck.engines import artifact, random_ids, timed_engine
from precast.tools.gpucheck.floors import BERT_BASE, Ceilings, encoder_floor_s
from precast.tools.gpucheck.rows import Row, rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage

AIM = 1.8


@dataclass(frozen=True)
class Sizes:
    batches: tuple[tuple[int, int], ...]
    """Number of inputs and longest length of each batch."""
    rounds: int


FULL = Sizes(((64, 128), (16, 512)), rounds=40)
TINY = Sizes(((6, 16),), rounds=3)


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    rows = []
    with timed_engine(setting, artifact(setting, "classify-bf16")) as (engine, spans):
        vocab = engine.manifest.model.vocab_size
        for inputs, longest in sizes.batches:
            random = np.random.default_rng(inputs)
            lengths = mixed_lengths(random, inputs, longest)
            found: dict[str, dict[str, float]] = {}
            kinds = {"packed": lengths, "padded": [longest] * inputs}
            for kind, kind_lengths in (*kinds.items(), *kinds.items()):
                ids = random_ids(random, kind_lengths, vocab)
                host_seconds([lambda: engine.encode(ids)], 3)  # noqa: B023 - called immediately
                device = spans(lambda: engine.encode(ids), sizes.rounds)  # noqa: B023
                host = host_seconds([lambda: engine.encode(ids)], sizes.rounds)  # noqa: B023
                found[kind] = {"device_ms": median_ms(device), "host_ms": median_ms(host)}
            report.expect(min(one["device_ms"] for one in found.values()) > 0, "a batch took no time")
            rows.append(row(setting, inputs, longest, lengths, found))
    report.content["rows"] = rows
    print(rows)
    return report


def mixed_lengths(random: np.random.Generator, inputs: int, longest: int) -> list[int]:
    """Return random lengths up to ``longest``, which occurs, with a mean of exactly half of it."""
    lengths = [int(length) for length in random.integers(1, longest + 1, size=inputs)]
    lengths[0] = longest
    wanted = inputs * longest // 2
    at = 0
    while sum(lengths) != wanted:
        at = at % (inputs - 1) + 1
        step = int(np.sign(wanted - sum(lengths)))
        lengths[at] = min(longest, max(1, lengths[at] + step))
    return lengths


def row(
    setting: Setting, inputs: int, longest: int, lengths: list[int], found: dict[str, dict[str, float]]
) -> dict[str, object]:
    """Return the speedup of packing, with the floors of both as details."""
    ceilings = Ceilings.of(setting.earlier.get("machine"))
    ratio = found["padded"]["device_ms"] / found["packed"]["device_ms"]
    floors = {
        kind: encoder_floor_s(ceilings, "bf16", BERT_BASE, kind_lengths)
        for kind, kind_lengths in (("packed", lengths), ("padded", [longest] * inputs))
    }
    details: dict[str, object] = {
        **{kind: {name: rounded(value) for name, value in one.items()} for kind, one in found.items()},
        "floors_ms": {
            kind: None if floor is None else rounded(floor * 1e3) for kind, floor in floors.items()
        },
        "tokens": {"packed": sum(lengths), "padded": inputs * longest},
    }
    name = f"BERT-base bf16, {inputs} inputs of 1 to {longest} tokens: packed vs. padded"
    return Row(name, ratio, "x", aim=AIM, details=details).plain()


STAGE = Stage(
    "packed",
    "the speedup of packing for mixed lengths",
    limit=20,
    run=run,
    needs=("compile/classify-bf16",),
    alone=True,
)
