"""Profiling buckets: medians through the replay that serves, within a limited time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.artifacts.reader import read_manifest
from precast.compiler.buckets import profile as measuring
from precast.compiler.buckets.profile import (
    BUDGET,
    RUNS,
    measure,
    opened_encode,
    opened_encode_source,
    profile_graph,
)
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.encoder.packing import fill
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import HostBuffers, Replay
from tests.support.artifacts import TinyModels
from tests.support.generating import t5


@dataclass
class Machine:
    """Runs batches on a simulated clock; ``cost`` gives the seconds of a size."""

    cost: Callable[[int], float]
    now: float = 0.0
    ran: list[int] = field(default_factory=list)

    def run(self, size: int) -> None:
        self.ran.append(size)
        self.now += self.cost(size)

    def clock(self) -> float:
        return self.now


def test_each_size_is_measured_by_the_median_of_its_runs() -> None:
    machine = Machine(lambda size: 1e-3 + 1e-5 * size)
    slow = [0]

    def run(size: int) -> None:
        machine.run(size)
        slow[0] += 1
        if slow[0] % 3 == 0:
            machine.now += 0.02  # every third run is disturbed

    found = measure(run, (16, 64, 1024), largest=5000, clock=machine.clock)
    assert found.seconds == pytest.approx((1.16e-3, 1.64e-3, 11.24e-3)) and found.upto == 1024
    assert machine.ran == [16, 16, 64, 1024, *[1024] * RUNS, *[64] * RUNS, *[16] * RUNS]


def test_costs_beyond_the_budget_are_extrapolated() -> None:
    each = BUDGET / 300
    machine = Machine(lambda size: each * size)
    sizes = (16, 64, 128, 256, 512)
    found = measure(machine.run, sizes, largest=5000, clock=machine.clock)
    assert found.upto == 128
    assert found.seconds == pytest.approx([each * size for size in sizes])
    assert machine.ran.count(128) == 1, "a run that takes long is not repeated"


def test_sizes_below_the_first_bucket_are_run_first() -> None:
    each = BUDGET / 300
    machine = Machine(lambda size: each * size)
    found = measure(machine.run, (16_384,), largest=50_000, clock=machine.clock)
    assert found.upto == 128 and found.seconds == pytest.approx((16_384 * each,))
    assert machine.now < 3 * BUDGET


def test_no_batch_is_larger_than_the_limits_allow() -> None:
    machine = Machine(lambda size: 1e-4 * size)
    found = measure(machine.run, (16, 32, 64), largest=40, clock=machine.clock)
    assert found.upto == 32 and max(machine.ran) == 32
    small = measure(machine.run, (16, 32), largest=3, clock=machine.clock)
    assert small.upto == 3 and small.seconds == pytest.approx((16e-4, 32e-4))


def test_costs_are_positive_even_if_the_clock_stands_still() -> None:
    assert min(measure(lambda size: None, (16, 32), largest=99, clock=lambda: 0.0).seconds) > 0


@given(
    sizes=st.sets(st.integers(1, 16_384), min_size=1, max_size=20).map(sorted),
    constant=st.floats(1e-5, 0.1),
    each=st.floats(1e-8, 1e-2),
)
def test_measuring_ends_in_time(sizes: list[int], constant: float, each: float) -> None:
    """The cost of a batch is a constant and a share for each token."""
    machine = Machine(lambda size: constant + each * size)
    found = measure(machine.run, sizes, largest=1 << 24, clock=machine.clock)
    least = machine.cost(min(sizes[0], 16))
    assert machine.now <= 2 * BUDGET + 2 * least
    for size, seconds in zip(sizes, found.seconds, strict=True):
        assert seconds == pytest.approx(machine.cost(min(size, found.upto)) * max(1, size / found.upto))


@pytest.mark.parametrize(("length", "longest"), [(5, 16), (64, 32)])
def test_batches_are_of_the_bucket_and_within_the_limits(
    tiny: TinyModels, monkeypatch: pytest.MonkeyPatch, length: int, longest: int
) -> None:
    folder: Path = tiny["embed"].artifact
    manifest = read_manifest(folder)
    met: set[int] = set()

    def watched(replay: Replay, batch: list[Tokens]) -> HostBuffers:
        lengths = [len(item) for item in batch]
        met.add(sum(lengths))
        assert len(batch) <= manifest.limits.max_batch and max(lengths) <= longest
        return fill(replay, batch)

    monkeypatch.setattr(measuring, "fill", watched)
    found = profile_graph(folder, manifest, GraphName.ENCODE, length, opened_encode)
    assert found.upto == 128 and met == set(manifest.graphs[GraphName.ENCODE].buckets.sizes)
    assert len(found.seconds) == 4 and all(np.isfinite(found.seconds)) and min(found.seconds) > 0


def test_sources_are_measured_as_they_are_admitted(tmp_path: Path) -> None:
    artifact = t5(tmp_path).artifact
    manifest = read_manifest(artifact)
    assert isinstance(manifest.limits, GenerateLimits)
    found = profile_graph(artifact, manifest, GraphName.ENCODE_SOURCE, 10, opened_encode_source)
    assert (
        len(found.seconds) == len(manifest.graphs[GraphName.ENCODE_SOURCE].buckets.sizes)
        and min(found.seconds) > 0
    )
    assert found.upto == manifest.limits.max_tokens
