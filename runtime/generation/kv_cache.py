"""The memory of the self and cross kv_cache: how large they are, and their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from precast.graphs.seq2seq import MAX_SLOTS, GenerateLimits, KVCacheShape
from precast.graphs.signature import DTYPES
from precast.runtime.cpu.buffers import zeros
from precast.runtime.errors import OptionError

BLOCK_SIZE = 16
"""Slots of a block: what a request takes more than it needs is half of this on average."""
DEFAULT_BYTES = 1 << 30
"""Of both kv_cache together, unless everything that the limits allow takes less."""


@dataclass(frozen=True)
class NumBlocks:
    """Blocks of either cache, the one that is never dealt out not counted."""

    own: int
    cross: int


def slot_bytes(shape: KVCacheShape) -> int:
    """Memory of one place: keys and values in all layers."""
    return 2 * shape.layers * shape.heads * shape.head_dim * DTYPES[shape.dtype].itemsize


def num_kv_blocks(
    limits: GenerateLimits,
    own: KVCacheShape,
    cross: KVCacheShape,
    kv_cache_bytes: int | None,
    cross_kv_fraction: float | None,
    at_most: int | None = None,
) -> NumBlocks:
    """How many blocks fit a byte budget.

    Args:
        limits: of the artifact.
        own: what a place of the self kv_cache holds.
        cross: what a place of the cross kv_cache holds.
        kv_cache_bytes: of both kv_cache; where left out, what it takes for all rows to reach the longest target
            from a longest source each, but at most ``at_most``.
        cross_kv_fraction: the cross kv_cache' share; where left out, as the longest request's.
        at_most: bytes; ``DEFAULT_BYTES`` where left out, or one request, if that needs more.

    Raises:
        OptionError: the budget does not hold one request of the longest source and target.
    """
    block = {"own": BLOCK_SIZE * slot_bytes(own), "cross": BLOCK_SIZE * slot_bytes(cross)}
    one = {"own": _blocks(limits.max_target_length), "cross": _blocks(limits.max_source_length)}
    longest = sum(one[kind] * block[kind] for kind in one)
    most = max(longest, DEFAULT_BYTES) if at_most is None else at_most
    budget = kv_cache_bytes or min(most, limits.max_num_seqs * longest)
    share = one["cross"] * block["cross"] / longest if cross_kv_fraction is None else cross_kv_fraction
    # The division may fall a hair short of a whole block.
    blocks = NumBlocks(
        own=int(budget * (1 - share) / block["own"] + 1e-6), cross=int(budget * share / block["cross"] + 1e-6)
    )
    if blocks.own < one["own"] or blocks.cross < one["cross"]:
        raise OptionError(
            f"kv_cache_bytes {budget} with cross_kv_fraction {share:.2f} gives {blocks.own} blocks of {BLOCK_SIZE} "
            f"tokens to targets and {blocks.cross} to sources; one request of {limits.max_target_length} "
            f"target and {limits.max_source_length} source tokens needs {one['own']} and {one['cross']} "
            f"({longest} bytes)"
        )
    largest = MAX_SLOTS // BLOCK_SIZE - 1
    return NumBlocks(min(blocks.own, largest), min(blocks.cross, largest))


def kv_cache_tensors(kind: str, shape: KVCacheShape, blocks: int) -> Mapping[str, Tensor]:
    """The tensors of the kv_cache of one kind, zeros: zero times what is no number would be none either.

    Args:
        kind: ``self`` or ``cross``.
        shape: of a place.
        blocks: with the one that is never dealt out.
    """
    size = (blocks * BLOCK_SIZE, shape.heads, shape.head_dim)
    return {name: zeros(size, DTYPES[shape.dtype]) for name in shape.names(kind)}


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)
