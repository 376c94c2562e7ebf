"""Fitted buckets have the lowest expected cost of all possible buckets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.compiler.buckets import fit as fitting
from precast.compiler.buckets.fit import expected_cost, fit_buckets
from precast.graphs.buckets import Buckets
from precast.graphs.costs import Costs

TOP = 12
COSTS = st.lists(st.floats(0.01, 5.0), min_size=TOP, max_size=TOP).map(
    lambda seconds: Costs(tuple(range(1, TOP + 1)), tuple(seconds))
)
DEMANDS = st.lists(st.sampled_from([0.0, 0.0, 0.1, 1.0, 2.5, 40.0]), min_size=TOP, max_size=TOP).map(
    lambda demand: np.array([0.0, *demand])
)


def all_buckets(top: int, graphs: int, granule: int) -> list[Buckets]:
    sizes = range(granule, top, granule)
    return [
        Buckets("tokens", (*inner, top)) for count in range(graphs) for inner in combinations(sizes, count)
    ]


@settings(max_examples=100, deadline=None)
@given(demand=DEMANDS, costs=COSTS, graphs=st.integers(1, 6), granule=st.sampled_from([1, 2, 5]))
def test_no_other_buckets_cost_less(demand: np.ndarray, costs: Costs, graphs: int, granule: int) -> None:
    buckets = fit_buckets("tokens", demand, costs.at, graphs, TOP, granule=granule)
    assert buckets.top == TOP and len(buckets.sizes) <= graphs
    assert all(bucket % granule == 0 for bucket in buckets.sizes[:-1])
    others = [expected_cost(other, demand, costs.at) for other in all_buckets(TOP, graphs, granule)]
    assert expected_cost(buckets, demand, costs.at) == pytest.approx(min(others))


@given(demand=DEMANDS, costs=COSTS)
def test_each_further_bucket_lowers_the_cost_or_is_not_used(demand: np.ndarray, costs: Costs) -> None:
    fitted = [fit_buckets("tokens", demand, costs.at, graphs, TOP, granule=1) for graphs in range(1, TOP + 1)]
    expected = [expected_cost(buckets, demand, costs.at) for buckets in fitted]
    for fewer, more, cost_of_fewer, cost_of_more in zip(
        fitted, fitted[1:], expected, expected[1:], strict=False
    ):
        assert cost_of_more <= cost_of_fewer * (1 + 1e-9)
        assert len(more.sizes) >= len(fewer.sizes)
        assert more == fewer or cost_of_more < cost_of_fewer
    assert fitted[-1] == fit_buckets("tokens", demand, costs.at, 10**6, TOP, granule=1)


@settings(max_examples=50, deadline=None)
@given(
    top=st.integers(1, 2000),
    steps=st.sampled_from([1, 2]),
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=60),
    constant=st.integers(0, 500),
)
def test_never_worse_than_as_many_default_buckets(
    top: int, steps: int, sizes: list[int], constant: int
) -> None:
    demand = np.bincount([min(size, top) for size in sizes], minlength=top + 1).astype(float)

    def cost(batch_sizes: np.ndarray) -> np.ndarray:
        return batch_sizes + constant

    default = Buckets.doubling("tokens", top, steps=steps)
    fitted = fit_buckets("tokens", demand, cost, len(default.sizes), top)
    assert expected_cost(fitted, demand, cost) <= expected_cost(default, demand, cost) * (1 + 1e-9)


def test_buckets_have_the_sizes_of_frequent_batches() -> None:
    demand = np.zeros(513)
    demand[[30, 31, 200]] = 10, 5, 1
    for graphs, buckets in ((1, (512,)), (2, (32, 512)), (3, (32, 200, 512)), (9, (32, 200, 512))):
        assert fit_buckets("tokens", demand, lambda sizes: sizes, graphs, 512).sizes == buckets
    assert fit_buckets("rows", np.zeros(513), lambda sizes: sizes, 4, 512) == Buckets("rows", (512,))


def test_one_bucket_suffices_if_all_sizes_cost_the_same() -> None:
    demand = np.ones(513)
    assert fit_buckets("tokens", demand, np.ones_like, 9, 512).sizes == (512,)


def test_many_sizes_are_rounded_more_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    demand = np.ones(1025)
    demand[0] = 0
    monkeypatch.setattr(fitting, "MAX_CANDIDATES", 16)
    fitted = fit_buckets("tokens", demand, lambda sizes: sizes, 1000, 1024)
    assert fitted.sizes == tuple(range(64, 1025, 64))
