"""Buckets: every size runs at the smallest bucket that holds it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.buckets import Buckets
from precast.graphs.errors import BucketError

valid_buckets = st.builds(
    lambda sizes: Buckets("tokens", tuple(sorted(sizes))),
    st.sets(st.integers(1, 1000), min_size=1, max_size=20),
)


@given(buckets=valid_buckets, data=st.data())
def test_bucket_is_the_smallest_that_holds_the_size(buckets: Buckets, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, buckets.top))
    bucket = buckets.bucket_for(size)
    assert bucket in buckets.sizes and bucket >= size
    assert all(smaller < size for smaller in buckets.sizes if smaller < bucket)


@given(buckets=valid_buckets, more=st.integers(1, 10**12))
def test_size_above_the_top_has_no_bucket(buckets: Buckets, more: int) -> None:
    with pytest.raises(BucketError, match=f"{buckets.top + more} tokens do not fit.* {buckets.top}"):
        buckets.bucket_for(buckets.top + more)


@given(top=st.integers(1, 1 << 24), first=st.integers(1, 1 << 10))
def test_doubling_ends_exactly_at_the_top(top: int, first: int) -> None:
    buckets = Buckets.doubling("num_seqs", top, first)
    assert buckets.axis == "num_seqs" and buckets.top == top
    assert buckets.sizes[0] == min(first, top)
    for smaller, larger in pairwise(buckets.sizes[:-1]):
        assert larger == 2 * smaller
    assert len(buckets.sizes) == 1 or buckets.sizes[-2] < top <= 2 * buckets.sizes[-2]


def test_a_power_of_two_is_its_own_bucket_once() -> None:
    assert Buckets.doubling("tokens", 64).sizes == (16, 32, 64)
    assert Buckets.doubling("tokens", 65).sizes == (16, 32, 64, 65)
    assert Buckets.doubling("tokens", 16).sizes == (16,)
    assert Buckets.doubling("tokens", 7).sizes == (7,)


@pytest.mark.parametrize("buckets", [(), (0,), (-1, 1), (2, 1), (1, 1), (1, 2, 2), (16, 32, 31)])
def test_sizes_that_do_not_ascend_are_rejected(buckets: tuple[int, ...]) -> None:
    with pytest.raises(BucketError, match="tokens must hold positive sizes in strictly ascending order"):
        Buckets("tokens", buckets)


@pytest.mark.parametrize(("top", "first"), [(0, 16), (-1, 16), (64, 0), (64, -2), (0, 0)])
def test_doubling_needs_positive_sizes(top: int, first: int) -> None:
    """Doubling a first bucket of zero would never end."""
    with pytest.raises(BucketError, match="positive"):
        Buckets.doubling("tokens", top, first)


@given(top=st.integers(1, 1 << 16), first=st.sampled_from([4, 16, 64]), steps=st.sampled_from([1, 2, 4]))
def test_steps_divide_the_range_between_a_size_and_its_double_evenly(
    top: int, first: int, steps: int
) -> None:
    buckets = Buckets.doubling("num_seqs", top, first, steps)
    assert buckets.top == top and buckets.sizes[0] == min(first, top)
    doubled = {size for size in buckets.sizes if 2 * size < top}
    assert {2 * size for size in doubled} <= set(buckets.sizes)
    for smaller, larger in pairwise(buckets.sizes[:-1]):
        assert smaller * (steps + 1) // steps >= larger


@pytest.mark.parametrize(("first", "steps"), [(0, 1), (16, 0), (16, 3)])
def test_steps_that_do_not_divide_are_rejected(first: int, steps: int) -> None:
    with pytest.raises(BucketError, match="positive multiple"):
        Buckets.doubling("num_seqs", 64, first, steps)
