"""Profiling: the time of a batch of each bucket's size, through the replay that will serve."""

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
"""Tokens of each input of a measured batch, if there is no workload."""
RUNS = 11
BUDGET = 1.0
"""Seconds for the measured runs of all buckets, and as many for the warm-up runs before them."""
_INSTANT = 1e-9
"""Least seconds of a run: costs must be positive."""

Run = Callable[[int], object]
"""Runs a batch with a number of tokens and returns when its output is ready."""
Lengths = Callable[[int], list[int]]
"""Returns the input lengths of a batch with a number of tokens."""
GraphRun = Callable[[Path, Any, Lengths], AbstractContextManager[Run]]
"""Opens the profiled graph of an artifact, given its directory and a manifest of the task's kind."""


@dataclass(frozen=True)
class Profile:
    """Seconds of a batch at each size; those of sizes above ``upto`` are extrapolated in proportion."""

    seconds: tuple[float, ...]
    upto: int


def profile_graph(
    folder: Path, manifest: Manifest, name: GraphName, length: int, open_graph: GraphRun
) -> Profile:
    """Measure a graph of an artifact at each of its buckets.

    Args:
        folder: the artifact's directory.
        manifest: the artifact's manifest.
        name: ``encode`` or ``encode_source``.
        length: tokens of an input; longer if a batch would otherwise exceed its maximum number of inputs.
        open_graph: opens the graph.

    Raises:
        PrecastError: the artifact cannot be loaded or run.
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
    """Return the median time of batches of several sizes.

    First each size is run once in ascending order, preceded by powers of two below the first size, as long as
    the budget allows the next one. Then they are measured in descending order; sizes whose runs take too long
    keep their first time. Larger sizes, and sizes that no batch can have, are extrapolated in proportion.

    Args:
        run: runs a batch.
        sizes: tokens of the batches, ascending.
        largest: tokens of the largest possible batch.
        clock: returns seconds.
    """

    def timed(size: int) -> float:
        start = clock()
        run(size)
        return max(clock() - start, _INSTANT)

    ways = sorted({*Buckets.doubling(TOKENS, sizes[0]).sizes, *sizes})
    climb = [size for size in ways if size <= largest] or [largest]
    timed(climb[0])  # one-time initialization is not measured
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
    """Open ``encode`` as an engine replays it."""
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
    """Open ``encode_source`` as an engine replays it. Keys and values go to block 0, which is not in use."""
    stepper = open_stepper(folder, manifest, DEFAULTS).stepper
    try:
        stepper.prepare()

        def run(size: int) -> object:
            sources = [np.zeros(length, np.int32) for length in lengths(size)]
            return stepper.encode_sources(sources, sources, hidden=False).hidden()

        yield run
    finally:
        stepper.close()
