"""Pages are dealt out once, counted exactly, and taken back only from who holds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.generation.block_allocator import PagePool

POOLS = st.builds(PagePool, st.integers(2, 40), st.integers(1, 9))


def test_page_zero_is_not_dealt_out() -> None:
    pool = PagePool(5, 4)
    assert pool.capacity == pool.free == 4
    pages = pool.reserve(16)
    assert pages is not None and sorted(pages) == [1, 2, 3, 4]


def test_an_exact_fit_is_given_and_one_token_more_is_not() -> None:
    pool = PagePool(4, 4)
    assert pool.reserve(13) is None
    assert (pool.free, pool.used) == (3, 0)
    pages = pool.reserve(12)
    assert pages is not None and len(pages) == 3
    assert (pool.free, pool.used) == (0, 3)
    assert pool.reserve(1) is None


def test_no_tokens_take_no_pages_even_of_a_full_pool() -> None:
    pool = PagePool(2, 4)
    assert pool.reserve(4) == (1,)
    assert pool.reserve(0) == ()
    pool.release(())
    assert pool.used == 1


@given(pool=POOLS, tokens=st.integers(0, 400))
def test_reserved_pages_hold_the_tokens_and_none_is_spare(pool: PagePool, tokens: int) -> None:
    pages = pool.reserve(tokens)
    if pages is None:
        assert tokens > pool.capacity * pool.page_size
        return
    assert len(pages) == len(set(pages)) == pool.used == pool.pages_for(tokens)
    assert 0 <= len(pages) * pool.page_size - tokens < pool.page_size
    assert all(1 <= page <= pool.capacity for page in pages)


@given(pool=POOLS, counts=st.lists(st.integers(0, 60)), data=st.data())
def test_whatever_is_held_is_held_once_and_comes_back(
    pool: PagePool, counts: list[int], data: st.DataObject
) -> None:
    held: list[tuple[int, ...]] = []
    for tokens in counts:
        pages = pool.reserve(tokens)
        if pages is not None:
            held.append(pages)
        elif held:
            pool.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        every = [page for one in held for page in one]
        assert len(set(every)) == len(every) == pool.used
        assert pool.used + pool.free == pool.capacity
    for pages in held:
        pool.release(pages)
    everything = pool.reserve(pool.capacity * pool.page_size)
    assert everything is not None and sorted(everything) == list(range(1, pool.capacity + 1))


def test_pages_given_back_last_are_dealt_out_first() -> None:
    pool = PagePool(10, 1)
    first = pool.reserve(3)
    assert first is not None and pool.reserve(1) is not None
    pool.release(first)
    assert pool.reserve(3) == first


@pytest.mark.parametrize("wrong", [(1, 4), (0,), (9,), (-1,), (1, 1), (1, 2, 2)])
def test_what_is_not_held_cannot_be_given_back(wrong: tuple[int, ...]) -> None:
    pool = PagePool(9, 2)
    assert pool.reserve(6) == (1, 2, 3)
    with pytest.raises(ValueError, match="give back what reserve gave"):
        pool.release(wrong)
    assert (pool.used, pool.free) == (3, 5)


def test_pages_are_given_back_once() -> None:
    pool = PagePool(4, 2)
    pages = pool.reserve(4)
    assert pages is not None
    pool.release(pages)
    with pytest.raises(ValueError, match=r"found \[1, 2\] that nobody holds"):
        pool.release(pages)
    assert (pool.used, pool.free) == (0, 3)


@given(
    page_size=st.integers(1, 16),
    pages=st.lists(st.integers(0, 99), unique=True, max_size=8),
    data=st.data(),
)
def test_token_i_lies_in_page_i_over_page_size(page_size: int, pages: list[int], data: st.DataObject) -> None:
    tokens = data.draw(st.integers(0, len(pages) * page_size))
    places = PagePool(100, page_size).places(pages, tokens)
    assert places.dtype == np.int32
    assert places.tolist() == [pages[i // page_size] * page_size + i % page_size for i in range(tokens)]


@pytest.mark.parametrize("tokens", [9, -1])
def test_places_of_more_tokens_than_the_pages_hold_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"2 pages of 4 places do not hold {tokens} tokens"):
        PagePool(9, 4).places((3, 5), tokens)


def test_a_negative_number_of_tokens_is_refused() -> None:
    pool = PagePool(9, 4)
    with pytest.raises(ValueError, match="found -1"):
        pool.reserve(-1)
    assert pool.free == 8


@pytest.mark.parametrize(("pages", "page_size"), [(1, 4), (2, 0), (1 << 27, 16)])
def test_a_pool_that_could_deal_out_nothing_or_not_number_its_places_is_refused(
    pages: int, page_size: int
) -> None:
    with pytest.raises(ValueError, match=f"found {pages} pages of {page_size}"):
        PagePool(pages, page_size)
