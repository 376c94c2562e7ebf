"""Costs: interpolation between profiled sizes, and extrapolation below them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.costs import Costs

costs = st.dictionaries(st.integers(1, 500), st.floats(1e-6, 10), min_size=1, max_size=8).map(
    lambda seconds: Costs(tuple(sorted(seconds)), tuple(seconds[size] for size in sorted(seconds)))
)


@given(costs=costs)
def test_costs_are_positive_and_never_decrease(costs: Costs) -> None:
    estimated = costs.at(np.arange(1, costs.sizes[-1] + 1))
    assert (estimated > 0).all() and (np.diff(estimated) >= -1e-12 * estimated[-1]).all()


@given(costs=costs)
def test_cost_at_a_profiled_size_is_the_largest_up_to_it(costs: Costs) -> None:
    estimated = costs.at(np.array(costs.sizes))
    np.testing.assert_allclose(estimated, np.maximum.accumulate(costs.seconds))


def test_between_two_sizes_and_below_the_first_costs_are_linear() -> None:
    """The fixed cost of a call is 2 here."""
    estimated = Costs((10, 20, 40), (3.0, 4.0, 8.0)).at(np.array([1, 5, 10, 15, 30, 40]))
    assert estimated == pytest.approx([2.1, 2.5, 3.0, 3.5, 6.0, 8.0])


def test_below_the_first_size_costs_do_not_fall_under_the_proportion() -> None:
    assert Costs((10, 20), (1.0, 9.0)).at(np.array([5])) == pytest.approx([0.5])
    assert Costs((10,), (1.0,)).at(np.array([1, 5, 10])) == pytest.approx([0.1, 0.5, 1.0])
