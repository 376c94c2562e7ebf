"""Replay of BERT-base: captured graphs compared with direct calls, two engines, and release of memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
from precast.tools.gpucheck.stages.families import random_batch, relative_difference

ALLOWED_RELATIVE = 2e-2
"""Allowed relative difference of bf16 embeddings from a replay and from a direct call, whose sizes differ."""
LEFT_BYTES = 64 << 20
"""Bytes that may stay reserved after all engines are closed, for workspaces of libraries."""


@dataclass(frozen=True)
class Sizes:
    rounds: int
    """Number of batches for each bucket."""


FULL = Sizes(rounds=3)
TINY = Sizes(rounds=1)


def run(setting: Setting, part: str) -> Report:
    sizes, report, clock = (TINY if setting.tiny else FULL), Report(), clock_of(setting.device)
    path = artifact(setting, "embed-bf16")
    # The first engine allocates the memory that libraries keep.
    precast.Encoder.load(path, cuda_graph_max_tokens=16).close()
    gc.collect()
    before = clock.reserved_bytes()
    with (
        precast.Encoder.load(path) as replayed,
        precast.Encoder.load(path, cuda_graph_max_tokens=16) as second,
        direct(setting) as called,
    ):
        during = clock.reserved_bytes()
        batches = random_batches(replayed, sizes)
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
    report.expect(left <= LEFT_BYTES, f"{left >> 20} MiB stay reserved after all engines are closed")
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
    """Return an engine of the same artifact without captured graphs: every batch exceeds its only bucket."""
    path = artifact(setting, "embed-bf16")
    manifest = open_artifact(path)
    graph = manifest.graphs[GraphName.ENCODE]
    if setting.device == "cuda":
        graph = graph.model_copy(update={"buckets": Buckets(graph.buckets.axis, (2,)), "costs": None})
    changed = manifest.model_copy(update={"graphs": {"encode": graph}})
    engine = start_engine(path, changed, LoadOptions(batch_tokens=manifest.limits.max_tokens))
    assert isinstance(engine, Encoder)
    return engine


def random_batches(engine: Encoder, sizes: Sizes) -> list[list[np.ndarray]]:
    """Return batches for every bucket, in random order and with random lengths."""
    random = np.random.default_rng(5)
    buckets = [*engine.manifest.graphs[GraphName.ENCODE].buckets.sizes] * sizes.rounds
    random.shuffle(buckets)
    return [random_batch(random, engine.manifest, bucket) for bucket in buckets]


def compare_engines(
    replayed: Encoder,
    second: Encoder,
    called: Encoder,
    batches: Sequence[list[np.ndarray]],
    report: Report,
) -> tuple[float, float]:
    """Return the largest difference between replays and direct calls, and the smallest between two inputs."""
    worst, separation = 0.0, float("inf")
    for number, batch in enumerate(batches):
        expected = called.embed(batch)
        engine = second if number % 3 == 2 else replayed
        embeddings = engine.embed(batch)
        error = max(relative_difference(a, b) for a, b in zip(embeddings, expected, strict=True))
        lengths = [len(one) for one in batch]
        report.expect(error <= ALLOWED_RELATIVE, f"lengths {lengths}: a replay differs by {error:.2e}")
        worst = max(worst, error)
        for a, b in pairwise(expected):
            separation = min(separation, relative_difference(a, b))
    return worst, separation


STAGE = Stage(
    "replay",
    "replays of captured graphs agree with direct calls; closing releases memory",
    limit=40,
    run=run,
    needs=("compile/embed-bf16",),
)
