"""The block allocator: blocks are reserved once, counted exactly, and released only if reserved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.generation.block_allocator import BlockAllocator

CACHES = st.builds(BlockAllocator, st.integers(2, 40), st.integers(1, 9))


def test_page_zero_is_not_dealt_out() -> None:
    cache = BlockAllocator(5, 4)
    assert cache.capacity == cache.free == 4
    blocks = cache.reserve(16)
    assert blocks is not None and sorted(blocks) == [1, 2, 3, 4]


def test_an_exact_fit_is_given_and_one_token_more_is_not() -> None:
    cache = BlockAllocator(4, 4)
    assert cache.reserve(13) is None
    assert (cache.free, cache.used) == (3, 0)
    blocks = cache.reserve(12)
    assert blocks is not None and len(blocks) == 3
    assert (cache.free, cache.used) == (0, 3)
    assert cache.reserve(1) is None


def test_no_tokens_take_no_pages_even_of_a_full_pool() -> None:
    cache = BlockAllocator(2, 4)
    assert cache.reserve(4) == (1,)
    assert cache.reserve(0) == ()
    cache.release(())
    assert cache.used == 1


@given(cache=CACHES, tokens=st.integers(0, 400))
def test_reserved_blocks_fit_the_tokens_and_exclude_the_spare_block(
    cache: BlockAllocator, tokens: int
) -> None:
    blocks = cache.reserve(tokens)
    if blocks is None:
        assert tokens > cache.capacity * cache.block_size
        return
    assert len(blocks) == len(set(blocks)) == cache.used == cache.blocks_for(tokens)
    assert 0 <= len(blocks) * cache.block_size - tokens < cache.block_size
    assert all(1 <= block <= cache.capacity for block in blocks)


@given(cache=CACHES, counts=st.lists(st.integers(0, 60)), data=st.data())
def test_whatever_is_held_is_held_once_and_comes_back(
    cache: BlockAllocator, counts: list[int], data: st.DataObject
) -> None:
    held: list[tuple[int, ...]] = []
    for tokens in counts:
        blocks = cache.reserve(tokens)
        if blocks is not None:
            held.append(blocks)
        elif held:
            cache.release(held.pop(data.draw(st.integers(0, len(held) - 1))))
        every = [block for one in held for block in one]
        assert len(set(every)) == len(every) == cache.used
        assert cache.used + cache.free == cache.capacity
    for blocks in held:
        cache.release(blocks)
    everything = cache.reserve(cache.capacity * cache.block_size)
    assert everything is not None and sorted(everything) == list(range(1, cache.capacity + 1))


def test_pages_given_back_last_are_dealt_out_first() -> None:
    cache = BlockAllocator(10, 1)
    first = cache.reserve(3)
    assert first is not None and cache.reserve(1) is not None
    cache.release(first)
    assert cache.reserve(3) == first


@pytest.mark.parametrize("wrong", [(1, 4), (0,), (9,), (-1,), (1, 1), (1, 2, 2)])
def test_releasing_blocks_that_are_not_reserved_raises(wrong: tuple[int, ...]) -> None:
    cache = BlockAllocator(9, 2)
    assert cache.reserve(6) == (1, 2, 3)
    with pytest.raises(ValueError, match="free what reserve returned"):
        cache.release(wrong)
    assert (cache.used, cache.free) == (3, 5)


def test_pages_are_given_back_once() -> None:
    cache = BlockAllocator(4, 2)
    blocks = cache.reserve(4)
    assert blocks is not None
    cache.release(blocks)
    with pytest.raises(ValueError, match=r"found \[1, 2\] that are not allocated"):
        cache.release(blocks)
    assert (cache.used, cache.free) == (0, 3)


@given(
    block_size=st.integers(1, 16),
    blocks=st.lists(st.integers(0, 99), unique=True, max_size=8),
    data=st.data(),
)
def test_token_i_lies_in_page_i_over_page_size(
    block_size: int, blocks: list[int], data: st.DataObject
) -> None:
    tokens = data.draw(st.integers(0, len(blocks) * block_size))
    slots = BlockAllocator(100, block_size).slots(blocks, tokens)
    assert slots.dtype == np.int32
    assert slots.tolist() == [blocks[i // block_size] * block_size + i % block_size for i in range(tokens)]


@pytest.mark.parametrize("tokens", [9, -1])
def test_slots_of_too_many_tokens_raise(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"2 blocks of 4 slots do not hold {tokens} tokens"):
        BlockAllocator(9, 4).slots((3, 5), tokens)


def test_a_negative_number_of_tokens_raises() -> None:
    cache = BlockAllocator(9, 4)
    with pytest.raises(ValueError, match="found -1"):
        cache.reserve(-1)
    assert cache.free == 8


@pytest.mark.parametrize(("blocks", "block_size"), [(1, 4), (2, 0), (1 << 27, 16)])
def test_invalid_cache_sizes_raise(blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match=f"found {blocks} blocks of {block_size}"):
        BlockAllocator(blocks, block_size)
