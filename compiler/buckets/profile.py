"""How long batches take, measured through the very replay that will serve."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from precast.artifacts.manifest import EncodeManifest, GenerateManifest, Manifest
from precast.graphs.buckets import Buckets
from precast.graphs.encode import TOKENS
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_replay
from precast.runtime.encoder.packing import fill
from precast.runtime.generation.setup import open_stepper
from precast.runtime.io.tokens import Tokens
from precast.runtime.options import DEFAULTS

EXAMPLE_LENGTH = 64
"""Tokens of the inputs of measured batches, where no workload says how long they are."""
RUNS = 11
BUDGET = 1.0
"""Seconds that the runs of all buckets may take together, and as many those before that warm up."""
_INSTANT = 1e-9
"""What a clock that stood still is taken to have counted: a batch is never free."""

Run = Callable[[int], object]
"""Runs a batch of so many tokens and returns when its output is there."""
Lengths = Callable[[int], list[int]]
"""Lengths of the inputs of a batch of so many tokens."""
GraphRun = Callable[[Path, Any, Lengths], AbstractContextManager[Run]]
"""Opens the profiled graph of an artifact, given its directory and a manifest of the task's kind."""


@dataclass(frozen=True)
class Profile:
    """Seconds of a batch at each size. Those of sizes above ``upto`` are in proportion to its."""

    seconds: tuple[float, ...]
    upto: int


def profile_graph(
    folder: Path, manifest: Manifest, name: GraphName, length: int, open_graph: GraphRun
) -> Profile:
    """Run a graph of an artifact at every bucket of its buckets.

    Args:
        folder: the artifact.
        manifest: its manifest.
        name: ``encode`` or ``encode_source``.
        length: tokens of an input; longer where a batch would otherwise hold too many.

    Raises:
        PrecastError: as loading, and running, an artifact.
    """
    limits = manifest.limits
    longest = limits.max_input_length
    buckets = manifest.graphs[name].buckets.sizes

    def lengths(size: int) -> list[int]:
        even = min(longest, max(length, -(-size // limits.max_batch)))
        return [min(even, size - start) for start in range(0, size, even)]

    with open_graph(folder, manifest, lengths) as run:
        return measure(run, buckets, largest=limits.max_batch * longest)


def measure(
    run: Run, sizes: Sequence[int], *, largest: int, clock: Callable[[], float] = time.perf_counter
) -> Profile:
    """Seconds at each of some ascending sizes: the median of some runs, the largest first.

    Each is run once before that, and below the first some that double up to it, as long as there is time
    for the next one. What takes long is not run again. Beyond, and where no batch is as large, seconds are
    in proportion.

    Args:
        run: of the graph.
        sizes: ascending.
        largest: size of a batch.
        clock: gives seconds.
    """

    def timed(size: int) -> float:
        start = clock()
        run(size)
        return max(clock() - start, _INSTANT)

    ways = sorted({*Buckets.doubling(TOKENS, sizes[0]).sizes, *sizes})
    climb = [size for size in ways if size <= largest] or [largest]
    timed(climb[0])  # sets up what runs of every size find later
    found = {climb[0]: timed(climb[0])}
    for before, size in pairwise(climb):
        if sum(found.values()) + found[before] * size / before > BUDGET:
            break
        found[size] = timed(size)
    share = BUDGET / len(found)
    for size in reversed(found):
        runs = min(RUNS, int(share / found[size]))
        if runs > 0:
            found[size] = statistics.median(timed(size) for _ in range(runs))
    upto = max(found)
    return Profile(tuple(found.get(size, found[upto] * size / upto) for size in sizes), upto)


@contextmanager
def opened_encode(folder: Path, manifest: EncodeManifest, lengths: Lengths) -> Iterator[Run]:
    """``encode`` as an engine replays it."""
    replay = open_replay(folder, manifest, DEFAULTS)
    try:
        replay.prepare()

        def run(size: int) -> object:
            batch = [Tokens(np.zeros(length, np.int32), None) for length in lengths(size)]
            return replay.launch(fill(replay, batch)).result()

        yield run
    finally:
        replay.close()


@contextmanager
def opened_encode_source(folder: Path, manifest: GenerateManifest, lengths: Lengths) -> Iterator[Run]:
    """``encode_source`` as an engine replays it. Keys and values go to the page that is never dealt out."""
    stepper = open_stepper(folder, manifest, DEFAULTS).stepper
    try:
        stepper.prepare()

        def run(size: int) -> object:
            sources = [np.zeros(length, np.int32) for length in lengths(size)]
            return stepper.encode_sources(sources, sources, hidden=False).hidden()

        yield run
    finally:
        stepper.close()
