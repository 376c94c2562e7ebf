"""BERT-base at fixed shapes, on the device and as a caller sees it, beside Hugging Face in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from precast.runtime.encoder.engine import Encoder
from precast.tools.bench.results import summary
from precast.tools.gpucheck import hugging_face as hf
from precast.tools.gpucheck.clock import Clock, clock_of, host_seconds, median_ms
from precast.tools.gpucheck.engines import artifact, checkpoint, timed_engine
from precast.tools.gpucheck.floors import BERT_BASE, Ceilings, encoder_floor_s
from precast.tools.gpucheck.rows import Row, rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage, keep
from precast.tools.gpucheck.stages.shapes import SHAPES, TINY_SHAPES, Shape

LARGEST_DIFFERENCE = 0.1
"""Of logits to HF's in bf16, relative to the largest: a row whose answers are wrong has no time."""
ONE_BATCH = 16_384


@dataclass(frozen=True)
class Sizes:
    shapes: tuple[Shape, ...]
    turns: int
    """Each contender is timed so many times, in turns with the others."""
    rounds: int
    """Calls in each of its turns."""
    seconds: float
    """After which torch.compile is not begun for another shape."""


FULL = Sizes(SHAPES, turns=3, rounds=15, seconds=54)
TINY = Sizes(TINY_SHAPES, turns=1, rounds=3, seconds=60)


@dataclass(frozen=True)
class Contender:
    """Something that answers a batch."""

    call: Callable[[], object]
    """As who waits for it sees it: token ids on the host in, logits on the host out."""
    spans: Callable[[int], list[float]]
    """Seconds on the device of so many calls."""


class Ours:
    """The engines of one artifact, and how their replays are timed."""

    def __init__(self, setting: Setting, name: str, stack: ExitStack, **options: Any) -> None:
        engine, spans = stack.enter_context(timed_engine(setting, artifact(setting, name), **options))
        self.engine: Encoder = engine
        self._spans = spans

    def contender(self, ids: np.ndarray) -> Contender:
        inputs = list(ids.astype(np.int32))
        call = partial(self.engine.encode, inputs)
        call()
        return Contender(call, partial(self._spans, call))

    def logits(self, ids: np.ndarray) -> np.ndarray:
        return np.stack([one.logits for one in self.engine.encode(list(ids.astype(np.int32)))])


def run(setting: Setting, part: str) -> Report:
    sizes, report, started = (TINY if setting.tiny else FULL), Report(), time.monotonic()
    clock = clock_of(setting.device)
    with ExitStack() as stack:
        engines = {"bf16": Ours(setting, "classify-bf16", stack)}
        extra = {"bf16 in one batch": ("classify-bf16", {"batch_tokens": 512 if setting.tiny else ONE_BATCH}),
                 "bf16, cuBLAS alone": ("classify-bf16-untuned", {}),
                 "fp16, cuBLAS alone": ("classify-fp16-untuned", {})}  # fmt: skip
        for name, (made, options) in extra.items():
            if artifact(setting, made).is_dir():
                engines[name] = Ours(setting, made, stack, cuda_graph_max_tokens=16, **options)
        peers = {
            attention: hf.Classifier(checkpoint(setting), setting.device, "bf16", kind)
            for attention, kind in ((hf.EAGER, "eager"), (hf.SDPA, "sdpa"))
        }
        figures = {shape.name: measure(shape, engines, peers, clock, sizes, report) for shape in sizes.shapes}
        report.content["rows"] = rows(setting, sizes, figures)
        keep(setting, report)
        add_compiled(setting, sizes, clock, figures, report, started)
    report.content["rows"] = rows(setting, sizes, figures)
    return report


def measure(
    shape: Shape,
    engines: Mapping[str, Ours],
    peers: Mapping[str, hf.Classifier],
    clock: Clock,
    sizes: Sizes,
    report: Report,
) -> dict[str, dict[str, Any]]:
    """Times of every contender at one shape, in turns; of ours the answers are checked first."""
    vocab = next(iter(engines.values())).engine.manifest.model.vocab_size
    ids = shape.ids(np.random.default_rng(3), vocab)
    expected = peers[hf.SDPA].logits(ids)
    for name, ours in engines.items():
        apart = float(np.abs(ours.logits(ids) - expected).max() / np.abs(expected).max())
        report.expect(apart <= LARGEST_DIFFERENCE, f"{shape.name}, {name}: {apart:.3f} from HF's logits")
    contenders = {name: ours.contender(ids) for name, ours in engines.items()}
    contenders |= {name: theirs(model, ids, clock) for name, model in peers.items()}
    found = in_turns(contenders, sizes)
    print(shape.name, {name: (one["device_ms"], one["host_ms"]) for name, one in found.items()})
    return found


def theirs(model: hf.Classifier, ids: np.ndarray, clock: Clock) -> Contender:
    alone = model.on_device(ids)
    return Contender(partial(model.logits, ids), lambda rounds: clock.device_seconds([alone], rounds))


def in_turns(contenders: Mapping[str, Contender], sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Medians and quartiles of all turns."""
    device: dict[str, list[float]] = {name: [] for name in contenders}
    host: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(sizes.turns):
        for name, contender in contenders.items():
            host_seconds([contender.call], 2)
            device[name] += contender.spans(sizes.rounds)
            host[name] += host_seconds([contender.call], sizes.rounds)
    return {
        name: {
            "device_ms": rounded(median_ms(device[name])),
            "host_ms": rounded(median_ms(host[name])),
            "device": summary(device[name]),
            "host": summary(host[name]),
        }
        for name in contenders
    }


def add_compiled(
    setting: Setting,
    sizes: Sizes,
    clock: Clock,
    figures: dict[str, dict[str, dict[str, Any]]],
    report: Report,
    started: float,
) -> None:
    """torch.compile last: it may take long, and what was measured before shall not wait for it."""
    model = hf.Classifier(checkpoint(setting), setting.device, "bf16", "sdpa", compiled=True)
    for shape in sizes.shapes:
        if time.monotonic() - started > sizes.seconds:
            report.content.setdefault("not_measured", []).append(f"{hf.COMPILED} at {shape.name}")
            continue
        ids = shape.ids(np.random.default_rng(3), 100)
        for _ in range(3):
            model.logits(ids)
        figures[shape.name] |= in_turns({hf.COMPILED: theirs(model, ids, clock)}, sizes)
        print(shape.name, hf.COMPILED, figures[shape.name][hf.COMPILED]["device_ms"])
        report.content["rows"] = rows(setting, sizes, figures)
        keep(setting, report)


def rows(
    setting: Setting, sizes: Sizes, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """A row for bf16 and one for fp16 at each shape; the other ways to run it are details."""
    ceilings = Ceilings.of(setting.earlier.get("machine"))
    found = []
    for shape in sizes.shapes:
        times = figures[shape.name]
        for name, dtype in (("bf16", "bf16"), ("fp16, cuBLAS alone", "fp16")):
            if name not in times:
                continue
            peers = {one: times[one]["device_ms"] for one in times if one.startswith("HF")}
            floor = encoder_floor_s(ceilings, dtype, BERT_BASE, shape.lengths)
            row = Row(
                f"BERT-base {name}, {shape.name}, on the device",
                times[name]["device_ms"],
                "ms",
                aim=shape.aim_ms,
                floor=None if floor is None else floor * 1e3,
                published=shape.published,
                peers=peers if dtype == "bf16" else {},
                details={"host_ms": times[name]["host_ms"], "all": dict(times) if dtype == "bf16" else {}},
            )
            found.append(row.plain())
    return found


STAGE = Stage(
    "latency",
    "BERT-base at four shapes against our aims, beside Hugging Face",
    limit=70,
    run=run,
    needs=("compile/classify-bf16",),
    after=("peers",),
    alone=True,
)
