"""Costs between the sizes that were measured, and below them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.costs import Costs

costs = st.dictionaries(st.integers(1, 500), st.floats(1e-6, 10), min_size=1, max_size=8).map(
    lambda drawn: Costs(tuple(sorted(drawn)), tuple(drawn[size] for size in sorted(drawn)))
)


@given(costs=costs)
def test_more_tokens_never_cost_less_and_none_are_free(costs: Costs) -> None:
    found = costs.at(np.arange(1, costs.sizes[-1] + 1))
    assert (found > 0).all() and (np.diff(found) >= -1e-12 * found[-1]).all()


@given(costs=costs)
def test_at_a_measured_size_it_is_what_was_measured_there_or_below(costs: Costs) -> None:
    found = costs.at(np.array(costs.sizes))
    np.testing.assert_allclose(found, np.maximum.accumulate(costs.seconds))


def test_between_two_sizes_and_below_the_first_costs_are_linear() -> None:
    """The call itself costs 2 here, whatever the batch holds."""
    found = Costs((10, 20, 40), (3.0, 4.0, 8.0)).at(np.array([1, 5, 10, 15, 30, 40]))
    assert found == pytest.approx([2.1, 2.5, 3.0, 3.5, 6.0, 8.0])


def test_below_the_first_a_steep_line_does_not_fall_under_its_share() -> None:
    assert Costs((10, 20), (1.0, 9.0)).at(np.array([5])) == pytest.approx([0.5])
    assert Costs((10,), (1.0,)).at(np.array([1, 5, 10])) == pytest.approx([0.1, 0.5, 1.0])
