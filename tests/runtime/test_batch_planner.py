"""The batch planner: batches of minimal cost within the limits of tokens and inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import precast
from precast.artifacts.manifest import EncodeManifest
from precast.artifacts.reader import read_manifest
from precast.graphs.costs import Costs
from precast.graphs.graph_names import GraphName
from precast.runtime.encoder import packing
from precast.runtime.encoder.batch_planner import cost_table
from precast.runtime.encoder.engine import Encoder
from precast.runtime.encoder.packing import cut
from precast.runtime.encoder.setup import _seconds
from precast.runtime.load import start_engine
from precast.runtime.options import LoadOptions
from tests.support.artifacts import TinyModels

TraceFunction = Callable[[FrameType, str, Any], Any]
BUDGET = 60
COSTS = st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=5).map(
    lambda seconds: Costs(
        tuple(BUDGET * (at + 1) // len(seconds) for at in range(len(seconds))), tuple(seconds)
    )
)
AFFINE = Costs((16, 60), (2.0, 4.0))


def total(batches: Sequence[Sequence[int]], lengths: Sequence[int], seconds: np.ndarray) -> float:
    return float(sum(seconds[sum(lengths[index] for index in batch)] for batch in batches))


def best_total(lengths: Sequence[int], max_batch: int, seconds: np.ndarray) -> float:
    """Return the minimal cost over all ways to cut the sorted lengths into batches."""
    ordered = sorted(lengths)
    totals = []
    for many in range(len(ordered)):
        for inner in combinations(range(1, len(ordered)), many):
            parts = [ordered[a:b] for a, b in pairwise((0, *inner, len(ordered)))]
            if all(len(part) <= max_batch and sum(part) < len(seconds) for part in parts):
                totals.append(sum(float(seconds[sum(part)]) for part in parts))
    return min(totals)


@given(
    lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=9),
    max_batch=st.integers(1, 9),
    costs=COSTS,
)
def test_the_total_cost_is_minimal(lengths: list[int], max_batch: int, costs: Costs) -> None:
    seconds = cost_table(costs, BUDGET)
    batches = cut(lengths, BUDGET, max_batch, seconds)
    assert total(batches, lengths, seconds) == pytest.approx(best_total(lengths, max_batch, seconds))


@given(lengths=st.lists(st.integers(1, 2 * BUDGET), max_size=60), max_batch=st.integers(1, 8), costs=COSTS)
def test_every_input_is_in_one_batch_within_both_limits(
    lengths: list[int], max_batch: int, costs: Costs
) -> None:
    batches = cut(lengths, BUDGET, max_batch, cost_table(costs, BUDGET))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert [lengths[index] for batch in batches for index in batch] == sorted(lengths)
    for batch in batches:
        assert 1 <= len(batch) <= max_batch
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= BUDGET


@given(lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=40), max_batch=st.integers(1, 8))
def test_planned_batches_cost_no_more_than_filled_ones(lengths: list[int], max_batch: int) -> None:
    seconds = cost_table(AFFINE, BUDGET)
    filled = cut(lengths, BUDGET, max_batch)
    assert total(cut(lengths, BUDGET, max_batch, seconds), lengths, seconds) <= (
        total(filled, lengths, seconds) * (1 + 1e-9)
    )


def test_expensive_calls_give_few_batches_and_steep_costs_small_ones() -> None:
    lengths = [15] * 8
    expensive_calls = cost_table(Costs((15, 60), (10.0, 13.0)), BUDGET)
    assert [len(batch) for batch in cut(lengths, BUDGET, 100, expensive_calls)] == [4, 4]
    steep = cost_table(Costs((15, 30, 60), (1.0, 1.8, 9.0)), BUDGET)
    assert [len(batch) for batch in cut(lengths, BUDGET, 100, steep)] == [2, 2, 2, 2]


@given(
    lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=40),
    max_batch=st.integers(1, 8),
    each=st.floats(1e-6, 1e-2),
)
def test_equal_costs_give_the_fewest_batches(lengths: list[int], max_batch: int, each: float) -> None:
    """If every token costs the same, totals differ only in their last bits."""
    even = cost_table(Costs((BUDGET,), (each * BUDGET,)), BUDGET)
    assert len(cut(lengths, BUDGET, max_batch, even)) == len(cut(lengths, BUDGET, max_batch))


def test_batches_of_a_window_too_large_to_plan_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    steep = cost_table(Costs((15, 30, 60), (1.0, 1.8, 9.0)), BUDGET)
    monkeypatch.setattr(packing, "SEARCHED", 8 * BUDGET)
    assert len(cut([15] * 8, BUDGET, 100, steep)) == 4
    assert len(cut([15] * 9, BUDGET, 100, steep)) == 3


def executed_lines(function: Callable[[], object]) -> int:
    """Return how many lines of Python a call executes, a measure of its cost on any machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def test_planning_a_full_window_takes_a_few_lines_for_each_input() -> None:
    """A loop over the tokens of a batch would take a thousand."""
    lengths = np.random.default_rng(0).integers(1, 12, 1200).tolist()
    seconds = cost_table(Costs((16, 256, 1024), (1e-3, 4e-3, 2e-2)), 1024)
    assert executed_lines(lambda: cut(lengths, 1024, 512, seconds)) < 30 * len(lengths)


def with_costs(manifest: EncodeManifest, seconds: Sequence[float]) -> EncodeManifest:
    graph = manifest.graphs[GraphName.ENCODE].model_copy(update={"costs": tuple(seconds)})
    return manifest.model_copy(update={"graphs": {"encode": graph}})


def test_an_engine_plans_by_the_costs_of_its_manifest(tiny: TinyModels) -> None:
    """Large batches are expensive here; outputs equal those of an engine without costs."""
    folder: Path = tiny["embed"].artifact
    manifest = read_manifest(folder)
    assert manifest.graphs[GraphName.ENCODE].buckets.sizes == (16, 32, 64, 128)
    inputs = [[5] * 16] * 8
    with precast.Encoder.load(folder) as plain:
        expected = plain.embed(inputs)
        assert plain.stats().batches == 1
    assert isinstance(manifest, EncodeManifest)
    expensive = with_costs(manifest, (1.0, 1.5, 9.0, 99.0))
    with start_engine(folder, expensive, LoadOptions(batch_tokens=128)) as engine:
        assert isinstance(engine, Encoder)
        np.testing.assert_allclose(engine.embed(inputs), expected, atol=1e-5)
        assert engine.stats().batches == 4
    cuda = expensive.model_copy(update={"build": expensive.build.model_copy(update={"device": "cuda"})})
    assert _seconds(cuda, 128) is None
