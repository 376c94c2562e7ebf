"""Throughput of embeddings of long inputs with a full queue."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

import precast
from precast.tools.gpucheck.clock import host_seconds
from precast.tools.gpucheck.engines import artifact, random_ids
from precast.tools.gpucheck.floors import BERT_BASE, Ceilings, encoder_floor_s
from precast.tools.gpucheck.rows import Row
from precast.tools.gpucheck.stage import Report, Setting, Stage

AIM = 3e6


@dataclass(frozen=True)
class Sizes:
    inputs: int
    length: int
    rounds: int
    batch_tokens: tuple[int, ...]
    """Values of ``batch_tokens``; the first is the default."""


FULL = Sizes(inputs=512, length=512, rounds=12, batch_tokens=(8192, 16_384))
TINY = Sizes(inputs=8, length=32, rounds=3, batch_tokens=(128, 256))


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    found: dict[str, float] = {}
    for batch_tokens in sizes.batch_tokens:
        options = {"batch_tokens": batch_tokens, "cuda_graph_max_tokens": 16}
        with precast.Encoder.load(artifact(setting, "embed-bf16"), **options) as engine:
            lengths = [sizes.length] * sizes.inputs
            ids = random_ids(np.random.default_rng(1), lengths, engine.manifest.model.vocab_size)
            embeddings = engine.embed(ids)
            report.expect(bool(np.isfinite(embeddings).all()), "an embedding is not finite")
            report.expect(
                len(embeddings) == sizes.inputs,
                f"expected {sizes.inputs} embeddings, found {len(embeddings)}",
            )
            seconds = statistics.median(host_seconds([lambda: engine.embed(ids)], sizes.rounds))  # noqa: B023
            found[str(batch_tokens)] = sum(lengths) / seconds
    floor = encoder_floor_s(
        Ceilings.of(setting.earlier.get("machine")), "bf16", BERT_BASE, [sizes.length] * sizes.inputs
    )
    row = Row(
        f"BERT-base embeddings bf16, {sizes.length}-token inputs, token ids in, all embeddings out",
        found[str(sizes.batch_tokens[0])],
        "tokens/s",
        aim=AIM,
        floor=None if floor is None else sizes.inputs * sizes.length / floor,
        details={"by_batch_tokens": found},
    )
    report.content["rows"] = [row.plain()]
    print(report.content["rows"])
    return report


STAGE = Stage(
    "saturated",
    "tokens per second with a full queue",
    limit=22,
    run=run,
    needs=("compile/embed-bf16",),
    alone=True,
)
