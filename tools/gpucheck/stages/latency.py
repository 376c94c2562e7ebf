"""Latency of BERT-base at fixed shapes, on the device and for the caller, compared with Hugging Face."""

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

MAX_LOGIT_DIFFERENCE = 0.1
"""Allowed difference of bf16 logits to HF, relative to the largest one."""
ONE_BATCH = 16_384


@dataclass(frozen=True)
class Sizes:
    shapes: tuple[Shape, ...]
    rounds: int
    """Number of interleaved rounds."""
    calls: int
    """Calls of each contender in a round."""
    seconds: float
    """Seconds after which torch.compile is not started for another shape."""


FULL = Sizes(SHAPES, rounds=3, calls=15, seconds=54)
TINY = Sizes(TINY_SHAPES, rounds=1, calls=3, seconds=60)


@dataclass(frozen=True)
class Contender:
    """A way to run one batch."""

    call: Callable[[], object]
    """Runs the batch: token ids on the host in, logits on the host out."""
    spans: Callable[[int], list[float]]
    """Returns the device seconds of a number of calls."""


class Ours:
    """An engine of an artifact whose replays are timed on the device."""

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
    """Check the logits of the engines at one shape, and return the times of all contenders."""
    vocab = next(iter(engines.values())).engine.manifest.model.vocab_size
    ids = shape.ids(np.random.default_rng(3), vocab)
    expected = peers[hf.SDPA].logits(ids)
    for name, ours in engines.items():
        apart = float(np.abs(ours.logits(ids) - expected).max() / np.abs(expected).max())
        report.expect(apart <= MAX_LOGIT_DIFFERENCE, f"{shape.name}, {name}: {apart:.3f} from HF's logits")
    contenders = {name: ours.contender(ids) for name, ours in engines.items()}
    contenders |= {name: theirs(model, ids, clock) for name, model in peers.items()}
    found = interleave(contenders, sizes)
    print(shape.name, {name: (one["device_ms"], one["host_ms"]) for name, one in found.items()})
    return found


def theirs(model: hf.Classifier, ids: np.ndarray, clock: Clock) -> Contender:
    alone = model.on_device(ids)
    return Contender(partial(model.logits, ids), lambda rounds: clock.device_seconds([alone], rounds))


def interleave(contenders: Mapping[str, Contender], sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Time all contenders in interleaved rounds; return medians and quartiles."""
    device: dict[str, list[float]] = {name: [] for name in contenders}
    host: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(sizes.rounds):
        for name, contender in contenders.items():
            host_seconds([contender.call], 2)
            device[name] += contender.spans(sizes.calls)
            host[name] += host_seconds([contender.call], sizes.calls)
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
    """Add torch.compile, last because it may take long."""
    model = hf.Classifier(checkpoint(setting), setting.device, "bf16", "sdpa", compiled=True)
    for shape in sizes.shapes:
        if time.monotonic() - started > sizes.seconds:
            report.content.setdefault("not_measured", []).append(f"{hf.COMPILED} at {shape.name}")
            continue
        ids = shape.ids(np.random.default_rng(3), 100)
        for _ in range(3):
            model.logits(ids)
        figures[shape.name] |= interleave({hf.COMPILED: theirs(model, ids, clock)}, sizes)
        print(shape.name, hf.COMPILED, figures[shape.name][hf.COMPILED]["device_ms"])
        report.content["rows"] = rows(setting, sizes, figures)
        keep(setting, report)


def rows(
    setting: Setting, sizes: Sizes, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return one row for bf16 and one for fp16 at each shape, with the other configurations as details."""
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
    "the latency of BERT-base at four shapes, compared with Hugging Face",
    limit=70,
    run=run,
    needs=("compile/classify-bf16",),
    after=("peers",),
    alone=True,
)
