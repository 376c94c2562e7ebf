"""BERT-base: captured graphs against direct calls of the same; two engines; memory given back."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import precast
from precast.artifacts.reader import open_artifact
from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.runtime.encoder.engine import Encoder
from precast.runtime.load import start_engine
from precast.runtime.options import LoadOptions
from precast.tools.gpucheck.clock import clock_of
from precast.tools.gpucheck.engines import artifact
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.gpucheck.stages.families import draw_batch, relative_difference

ALLOWED_RELATIVE = 2e-2
"""Of an embedding by a replay to the same by a direct call: bf16, other sizes of the multiplications."""
LEFT_BYTES = 64 << 20
"""What may stay on the device after all engines were closed: workspaces of libraries."""


@dataclass(frozen=True)
class Sizes:
    rounds: int
    """Batches for each bucket."""


FULL = Sizes(rounds=3)
TINY = Sizes(rounds=1)


def run(setting: Setting, part: str) -> Report:
    sizes, report, clock = (TINY if setting.tiny else FULL), Report(), clock_of(setting.device)
    path = artifact(setting, "embed-bf16")
    # What libraries keep for good is taken by the first engine.
    precast.Encoder.load(path, cuda_graph_max_tokens=16).close()
    gc.collect()
    before = clock.reserved_bytes()
    with (
        precast.Encoder.load(path) as replayed,
        precast.Encoder.load(path, cuda_graph_max_tokens=16) as second,
        direct(setting) as called,
    ):
        during = clock.reserved_bytes()
        batches = draw_batches(replayed, sizes)
        worst, separation = compare_engines(replayed, second, called, batches, report)
        stats = replayed.stats()
        captures = [(one.bucket, round(one.seconds, 4), one.bytes) for one in stats.captures]
        buckets = replayed.manifest.graphs[GraphName.ENCODE].buckets.sizes
    report.expect(
        setting.device == "cpu" or {bucket for bucket, *_ in captures} == set(buckets),
        f"captured {sorted(bucket for bucket, *_ in captures)} of {list(buckets)}",
    )
    gc.collect()
    left = clock.reserved_bytes() - before
    report.expect(left <= LEFT_BYTES, f"{left >> 20} MiB stay on the device after all engines were closed")
    report.content = {
        "batches": len(batches),
        "worst_relative_difference": worst,
        "least_difference_of_two_inputs": separation,
        "captures": captures,
        "capture_seconds": stats.capture_seconds,
        "graph_bytes": stats.graph_bytes,
        "engine_bytes": during - before,
        "left_bytes": left,
    }
    print(report.content)
    return report


def direct(setting: Setting) -> Encoder:
    """An engine of the same artifact that captures nothing: its buckets ends below every batch."""
    path = artifact(setting, "embed-bf16")
    manifest = open_artifact(path)
    graph = manifest.graphs[GraphName.ENCODE]
    if setting.device == "cuda":
        graph = graph.model_copy(update={"buckets": Buckets(graph.buckets.axis, (2,)), "costs": None})
    changed = manifest.model_copy(update={"graphs": {"encode": graph}})
    engine = start_engine(path, changed, LoadOptions(batch_tokens=manifest.limits.max_tokens))
    assert isinstance(engine, Encoder)
    return engine


def draw_batches(engine: Encoder, sizes: Sizes) -> list[list[np.ndarray]]:
    """For every bucket some, in random order: every replay at other lengths than those of its capture."""
    random = np.random.default_rng(5)
    buckets = [*engine.manifest.graphs[GraphName.ENCODE].buckets.sizes] * sizes.rounds
    random.shuffle(buckets)
    return [draw_batch(random, engine.manifest, bucket) for bucket in buckets]


def compare_engines(
    replayed: Encoder,
    second: Encoder,
    called: Encoder,
    batches: Sequence[list[np.ndarray]],
    report: Report,
) -> tuple[float, float]:
    """The worst difference of replays to direct calls, and the least one of two inputs of a batch."""
    worst, separation = 0.0, float("inf")
    for number, batch in enumerate(batches):
        expected = called.embed(batch)
        engine = second if number % 3 == 2 else replayed
        found = engine.embed(batch)
        error = max(relative_difference(a, b) for a, b in zip(found, expected, strict=True))
        lengths = [len(one) for one in batch]
        report.expect(error <= ALLOWED_RELATIVE, f"lengths {lengths}: a replay differs by {error:.2e}")
        worst = max(worst, error)
        for a, b in zip(expected, expected[1:], strict=False):
            separation = min(separation, relative_difference(a, b))
    return worst, separation


STAGE = Stage(
    "replay",
    "replays of captured graphs answer as direct calls; closing gives memory back",
    limit=40,
    run=run,
    needs=("compile/embed-bf16",),
)
