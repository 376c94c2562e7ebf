"""Batches cut by what they cost: the cheapest way, and never outside of the budgets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path

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

BUDGET = 60
COSTS = st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=5).map(
    lambda seconds: Costs(
        tuple(BUDGET * (at + 1) // len(seconds) for at in range(len(seconds))), tuple(seconds)
    )
)
AFFINE = Costs((16, 60), (2.0, 4.0))


def total(batches: Sequence[Sequence[int]], lengths: Sequence[int], seconds: np.ndarray) -> float:
    return float(sum(seconds[sum(lengths[place] for place in batch)] for batch in batches))


def best_total(lengths: Sequence[int], max_batch: int, seconds: np.ndarray) -> float:
    """Over every way to cut the ascending lengths into neighbours."""
    ordered = sorted(lengths)
    found = []
    for many in range(len(ordered)):
        for inner in combinations(range(1, len(ordered)), many):
            parts = [ordered[a:b] for a, b in pairwise((0, *inner, len(ordered)))]
            if all(len(part) <= max_batch and sum(part) < len(seconds) for part in parts):
                found.append(sum(float(seconds[sum(part)]) for part in parts))
    return min(found)


@given(
    lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=9),
    max_batch=st.integers(1, 9),
    costs=COSTS,
)
def test_no_other_way_to_cut_costs_less(lengths: list[int], max_batch: int, costs: Costs) -> None:
    seconds = cost_table(costs, BUDGET)
    batches = cut(lengths, BUDGET, max_batch, seconds)
    assert total(batches, lengths, seconds) == pytest.approx(best_total(lengths, max_batch, seconds))


@given(lengths=st.lists(st.integers(1, 2 * BUDGET), max_size=60), max_batch=st.integers(1, 8), costs=COSTS)
def test_every_request_is_in_one_batch_within_both_budgets(
    lengths: list[int], max_batch: int, costs: Costs
) -> None:
    batches = cut(lengths, BUDGET, max_batch, cost_table(costs, BUDGET))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert [lengths[place] for batch in batches for place in batch] == sorted(lengths)
    for batch in batches:
        assert 1 <= len(batch) <= max_batch
        assert len(batch) == 1 or sum(lengths[place] for place in batch) <= BUDGET


@given(lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=40), max_batch=st.integers(1, 8))
def test_it_costs_no_more_than_filling_each_batch(lengths: list[int], max_batch: int) -> None:
    seconds = cost_table(AFFINE, BUDGET)
    filled = cut(lengths, BUDGET, max_batch)
    assert total(cut(lengths, BUDGET, max_batch, seconds), lengths, seconds) <= (
        total(filled, lengths, seconds) * (1 + 1e-9)
    )


def test_calls_that_cost_something_are_few_and_costs_that_rise_steeply_make_them_small() -> None:
    lengths = [15] * 8
    dear_calls = cost_table(Costs((15, 60), (10.0, 13.0)), BUDGET)
    assert [len(batch) for batch in cut(lengths, BUDGET, 100, dear_calls)] == [4, 4]
    steep = cost_table(Costs((15, 30, 60), (1.0, 1.8, 9.0)), BUDGET)
    assert [len(batch) for batch in cut(lengths, BUDGET, 100, steep)] == [2, 2, 2, 2]


@given(
    lengths=st.lists(st.integers(1, BUDGET), min_size=1, max_size=40),
    max_batch=st.integers(1, 8),
    each=st.floats(1e-6, 1e-2),
)
def test_of_ways_that_cost_the_same_it_is_that_of_the_fewest_batches(
    lengths: list[int], max_batch: int, each: float
) -> None:
    """Where a token costs the same in every batch; sums of it differ in their last bits."""
    even = cost_table(Costs((BUDGET,), (each * BUDGET,)), BUDGET)
    assert len(cut(lengths, BUDGET, max_batch, even)) == len(cut(lengths, BUDGET, max_batch))


def test_a_window_too_large_to_search_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    steep = cost_table(Costs((15, 30, 60), (1.0, 1.8, 9.0)), BUDGET)
    monkeypatch.setattr(packing, "SEARCHED", 8 * BUDGET)
    assert len(cut([15] * 8, BUDGET, 100, steep)) == 4
    assert len(cut([15] * 9, BUDGET, 100, steep)) == 3


def test_a_full_window_is_cut_in_milliseconds() -> None:
    """Less than one for a hundred inputs, on any machine that could compute them."""
    lengths = np.random.default_rng(0).integers(1, 12, 1200).tolist()
    seconds = cost_table(Costs((16, 256, 1024), (1e-3, 4e-3, 2e-2)), 1024)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        cut(lengths, 1024, 512, seconds)
        taken.append(time.perf_counter() - start)
    assert min(taken) < 12e-3


def with_costs(manifest: EncodeManifest, seconds: Sequence[float]) -> EncodeManifest:
    graph = manifest.graphs[GraphName.ENCODE].model_copy(update={"costs": tuple(seconds)})
    return manifest.model_copy(update={"graphs": {"encode": graph}})


def test_an_engine_cuts_by_the_costs_of_its_manifest(tiny: TinyModels) -> None:
    """Batches as large as may be are dear here; the answers are those of an engine without costs."""
    folder: Path = tiny["embed"].artifact
    manifest = read_manifest(folder)
    assert manifest.graphs[GraphName.ENCODE].buckets.sizes == (16, 32, 64, 128)
    inputs = [[5] * 16] * 8
    with precast.Encoder.load(folder) as plain:
        expected = plain.embed(inputs)
        assert plain.stats().batches == 1
    assert isinstance(manifest, EncodeManifest)
    dear = with_costs(manifest, (1.0, 1.5, 9.0, 99.0))
    with start_engine(folder, dear, LoadOptions(batch_tokens=128)) as engine:
        assert isinstance(engine, Encoder)
        np.testing.assert_allclose(engine.embed(inputs), expected, atol=1e-5)
        assert engine.stats().batches == 4
    cuda = dear.model_copy(update={"build": dear.build.model_copy(update={"device": "cuda"})})
    assert _seconds(cuda, 128) is None
