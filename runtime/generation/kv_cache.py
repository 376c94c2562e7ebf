"""The KV cache of self- and cross-attention: its size, and its tensors on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from precast.graphs.seq2seq import MAX_SLOTS, GenerateLimits, KVCacheShape
from precast.graphs.signature import DTYPES
from precast.runtime.cpu.buffers import zeros
from precast.runtime.errors import OptionError

BLOCK_SIZE = 16
"""Slots of a block; a request leaves half of one unused on average."""
DEFAULT_BYTES = 1 << 30
"""Default upper limit of the bytes of both KV caches."""


@dataclass(frozen=True)
class NumBlocks:
    """Blocks of the self- and the cross-attention KV cache, without the spare block of either."""

    self_kv: int
    cross_kv: int


def slot_bytes(shape: KVCacheShape) -> int:
    """Return the bytes of one slot: a token's keys and values in all layers."""
    return 2 * shape.layers * shape.heads * shape.head_dim * DTYPES[shape.dtype].itemsize


def num_kv_blocks(
    limits: GenerateLimits,
    self_kv: KVCacheShape,
    cross_kv: KVCacheShape,
    kv_cache_bytes: int | None,
    cross_kv_fraction: float | None,
    at_most: int | None = None,
) -> NumBlocks:
    """Return how many blocks fit a byte budget.

    Args:
        limits: Limits of the artifact.
        self_kv: Shape of a self-attention slot.
        cross_kv: Shape of a cross-attention slot.
        kv_cache_bytes: The budget. By default enough for all sequences at the longest target, each with a
            source of maximum length, but at most ``at_most``.
        cross_kv_fraction: Share of cross-attention; by default its share in the longest request.
        at_most: Bytes; by default ``DEFAULT_BYTES``, or one request if that needs more.

    Raises:
        OptionError: The budget does not hold one request of the longest source and target.
    """
    self_block, cross_block = BLOCK_SIZE * slot_bytes(self_kv), BLOCK_SIZE * slot_bytes(cross_kv)
    self_need, cross_need = _blocks(limits.max_target_length), _blocks(limits.max_source_length)
    longest = self_need * self_block + cross_need * cross_block
    most = max(longest, DEFAULT_BYTES) if at_most is None else at_most
    budget = kv_cache_bytes or min(most, limits.max_num_seqs * longest)
    share = cross_need * cross_block / longest if cross_kv_fraction is None else cross_kv_fraction
    # The quotient may be a rounding error below a whole number of blocks.
    blocks = NumBlocks(
        self_kv=int(budget * (1 - share) / self_block + 1e-6),
        cross_kv=int(budget * share / cross_block + 1e-6),
    )
    if blocks.self_kv < self_need or blocks.cross_kv < cross_need:
        raise OptionError(
            f"kv_cache_bytes {budget} with cross_kv_fraction {share:.2f} gives {blocks.self_kv} blocks of "
            f"{BLOCK_SIZE} tokens to targets and {blocks.cross_kv} to sources; one request of "
            f"{limits.max_target_length} target and {limits.max_source_length} source tokens needs "
            f"{self_need} and {cross_need} ({longest} bytes)"
        )
    largest = MAX_SLOTS // BLOCK_SIZE - 1
    return NumBlocks(min(blocks.self_kv, largest), min(blocks.cross_kv, largest))


def kv_cache_tensors(kind: str, shape: KVCacheShape, blocks: int) -> Mapping[str, Tensor]:
    """Return the tensors of the KV cache of one kind, zeros: masked slots have weight 0, but 0 * NaN is NaN.

    Args:
        kind: ``self`` or ``cross``.
        shape: Shape of a slot.
        blocks: Number of blocks, the spare block included.
    """
    size = (blocks * BLOCK_SIZE, shape.heads, shape.head_dim)
    return {name: zeros(size, DTYPES[shape.dtype]) for name in shape.names(kind)}


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)
