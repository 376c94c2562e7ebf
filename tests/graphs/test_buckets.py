"""BucketSelections: every size has the least bucket that holds it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.buckets import Buckets
from precast.graphs.errors import BucketError

graph_buckets = st.builds(
    lambda sizes: Buckets("tokens", tuple(sorted(sizes))),
    st.sets(st.integers(1, 1000), min_size=1, max_size=20),
)


@given(buckets=graph_buckets, data=st.data())
def test_the_bucket_is_the_least_that_holds_the_size(buckets: Buckets, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, buckets.top))
    bucket = buckets.bucket_for(size)
    assert bucket in buckets.sizes and bucket >= size
    assert all(other < size or other >= bucket for other in buckets.sizes)


@given(buckets=graph_buckets, more=st.integers(1, 10**12))
def test_what_is_above_the_top_has_no_bucket(buckets: Buckets, more: int) -> None:
    with pytest.raises(BucketError, match=f"{buckets.top + more} tokens do not fit.* {buckets.top}"):
        buckets.bucket_for(buckets.top + more)


@given(top=st.integers(1, 1 << 24), first=st.integers(1, 1 << 10))
def test_doubling_ends_exactly_at_the_top(top: int, first: int) -> None:
    buckets = Buckets.doubling("rows", top, first)
    assert buckets.axis == "rows" and buckets.top == top
    assert buckets.sizes[0] == min(first, top)
    for below, above in pairwise(buckets.sizes[:-1]):
        assert above == 2 * below
    assert len(buckets.sizes) == 1 or buckets.sizes[-2] < top <= 2 * buckets.sizes[-2]


def test_a_power_of_two_is_its_own_bucket_once() -> None:
    assert Buckets.doubling("tokens", 64).sizes == (16, 32, 64)
    assert Buckets.doubling("tokens", 65).sizes == (16, 32, 64, 65)
    assert Buckets.doubling("tokens", 16).sizes == (16,)
    assert Buckets.doubling("tokens", 7).sizes == (7,)


@pytest.mark.parametrize("buckets", [(), (0,), (-1, 1), (2, 1), (1, 1), (1, 2, 2), (16, 32, 31)])
def test_other_orders_are_refused(buckets: tuple[int, ...]) -> None:
    with pytest.raises(BucketError, match="tokens must hold positive sizes in strictly ascending order"):
        Buckets("tokens", buckets)


@pytest.mark.parametrize(("top", "first"), [(0, 16), (-1, 16), (64, 0), (64, -2), (0, 0)])
def test_doubling_needs_positive_sizes(top: int, first: int) -> None:
    """A first bucket of zero would never reach the top."""
    with pytest.raises(BucketError, match="positive"):
        Buckets.doubling("tokens", top, first)


@given(top=st.integers(1, 1 << 16), first=st.sampled_from([4, 16, 64]), steps=st.sampled_from([1, 2, 4]))
def test_steps_stand_evenly_between_a_size_and_its_double(top: int, first: int, steps: int) -> None:
    buckets = Buckets.doubling("rows", top, first, steps)
    assert buckets.top == top and buckets.sizes[0] == min(first, top)
    doubled = {size for size in buckets.sizes if 2 * size < top}
    assert {2 * size for size in doubled} <= set(buckets.sizes)
    for below, above in pairwise(buckets.sizes[:-1]):
        assert below * (steps + 1) // steps >= above


@pytest.mark.parametrize(("first", "steps"), [(0, 1), (16, 0), (16, 3)])
def test_steps_that_do_not_divide_are_refused(first: int, steps: int) -> None:
    with pytest.raises(BucketError, match="positive multiple"):
        Buckets.doubling("rows", 64, first, steps)
