"""Ladders: every size has the least bucket that holds it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.errors import LadderError
from precast.graphs.buckets import Ladder

ladders = st.builds(
    lambda sizes: Ladder("tokens", tuple(sorted(sizes))),
    st.sets(st.integers(1, 1000), min_size=1, max_size=20),
)


@given(ladder=ladders, data=st.data())
def test_the_bucket_is_the_least_that_holds_the_size(ladder: Ladder, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, ladder.top))
    bucket = ladder.bucket_for(size)
    assert bucket in ladder.buckets and bucket >= size
    assert all(other < size or other >= bucket for other in ladder.buckets)


@given(ladder=ladders, more=st.integers(1, 10**12))
def test_what_is_above_the_top_has_no_bucket(ladder: Ladder, more: int) -> None:
    with pytest.raises(LadderError, match=f"{ladder.top + more} tokens do not fit.* {ladder.top}"):
        ladder.bucket_for(ladder.top + more)


@given(top=st.integers(1, 1 << 24), first=st.integers(1, 1 << 10))
def test_doubling_ends_exactly_at_the_top(top: int, first: int) -> None:
    ladder = Ladder.doubling("rows", top, first)
    assert ladder.axis == "rows" and ladder.top == top
    assert ladder.buckets[0] == min(first, top)
    for below, above in pairwise(ladder.buckets[:-1]):
        assert above == 2 * below
    assert len(ladder.buckets) == 1 or ladder.buckets[-2] < top <= 2 * ladder.buckets[-2]


def test_a_power_of_two_is_its_own_bucket_once() -> None:
    assert Ladder.doubling("tokens", 64).buckets == (16, 32, 64)
    assert Ladder.doubling("tokens", 65).buckets == (16, 32, 64, 65)
    assert Ladder.doubling("tokens", 16).buckets == (16,)
    assert Ladder.doubling("tokens", 7).buckets == (7,)


@pytest.mark.parametrize("buckets", [(), (0,), (-1, 1), (2, 1), (1, 1), (1, 2, 2), (16, 32, 31)])
def test_other_orders_are_refused(buckets: tuple[int, ...]) -> None:
    with pytest.raises(LadderError, match="tokens must hold positive sizes in strictly ascending order"):
        Ladder("tokens", buckets)


@pytest.mark.parametrize(("top", "first"), [(0, 16), (-1, 16), (64, 0), (64, -2), (0, 0)])
def test_doubling_needs_positive_sizes(top: int, first: int) -> None:
    """A first bucket of zero would never reach the top."""
    with pytest.raises(LadderError, match="positive"):
        Ladder.doubling("tokens", top, first)


@given(top=st.integers(1, 1 << 16), first=st.sampled_from([4, 16, 64]), steps=st.sampled_from([1, 2, 4]))
def test_steps_stand_evenly_between_a_size_and_its_double(top: int, first: int, steps: int) -> None:
    ladder = Ladder.doubling("rows", top, first, steps)
    assert ladder.top == top and ladder.buckets[0] == min(first, top)
    doubled = {size for size in ladder.buckets if 2 * size < top}
    assert {2 * size for size in doubled} <= set(ladder.buckets)
    for below, above in pairwise(ladder.buckets[:-1]):
        assert below * (steps + 1) // steps >= above


@pytest.mark.parametrize(("first", "steps"), [(0, 1), (16, 0), (16, 3)])
def test_steps_that_do_not_divide_are_refused(first: int, steps: int) -> None:
    with pytest.raises(LadderError, match="positive multiple"):
        Ladder.doubling("rows", 64, first, steps)
