"""Attention of a decode step over the KV cache: operators, tiles, splits and a plain-torch reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from precast.compiler.kernels.triton.decode_attention_kernel import (
    combine_parts_kernel,
    decode_cross_kernel,
    decode_self_kernel,
)
from precast.compiler.kernels.triton.launch import launch
from precast.compiler.kernels.triton.packed_attention import DTYPES, LARGEST_HEAD, block_of_head

SHARED_SOURCE_SEQS = 16
"""Sequences whose common source one program reads once; the smallest size of a matrix unit."""
MAX_SPLITS = 16
_MIN_PROGRAMS = 264
"""Two for each of an H100's multiprocessors."""
_MIN_KEYS = 64
"""Keys that a split has at least; fewer are not worth a program."""


@dataclass(frozen=True)
class DecodeTile:
    """The tile of one program.

    Attributes:
        keys: keys in one iteration of its loop, a power of two from 16.
        warps: warps of 32 threads.
        stages: depth of the software pipeline that prefetches.
    """

    keys: int
    warps: int
    stages: int


def splits_for(num_seqs: int, heads: int, longest: int) -> int:
    """The number of splits of a sequence's keys: a power of two, above one for few sequences.

    Args:
        num_seqs: active sequences of a step.
        heads: of the attention.
        longest: the largest number of keys of a sequence.
    """
    wanted = min(-(-_MIN_PROGRAMS // (num_seqs * heads)), -(-longest // _MIN_KEYS), MAX_SPLITS)
    return 1 << max(0, wanted.bit_length() - 1)


def tile_for(dtype: torch.dtype, block_d: int) -> DecodeTile:
    """The tile for heads of ``block_d`` numbers, which uses half of the registers.

    Sized so that no registers spill on sm_80, sm_90 and sm_100; fp32 takes twice as many.
    """
    keys = max(16, min(64, 4096 // block_d))
    if dtype is torch.float32:
        return DecodeTile(max(16, keys // 2), warps=8, stages=2)
    return DecodeTile(keys, warps=4, stages=2)


def _check(query: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, seq_ids: Tensor) -> None:
    if query.dtype not in DTYPES or key_cache.dtype != query.dtype or value_cache.dtype != query.dtype:
        raise ValueError(
            f"query and KV cache share one of {DTYPES}, "
            f"not {query.dtype}, {key_cache.dtype}, {value_cache.dtype}"
        )
    if not 1 <= query.shape[2] <= LARGEST_HEAD:
        raise ValueError(f"head_dim must be 1 to {LARGEST_HEAD}, not {query.shape[2]}")
    if key_cache.shape != value_cache.shape or key_cache.shape[1:] != query.shape[1:]:
        shapes = f"{tuple(query.shape)}, {tuple(key_cache.shape)}, {tuple(value_cache.shape)}"
        raise ValueError(f"the shapes of query and KV cache do not match: {shapes}")
    if not key_cache.is_contiguous() or not value_cache.is_contiguous():
        raise ValueError("the KV cache must be contiguous")
    if seq_ids.dtype != torch.int32 or slots.dtype != torch.int32 or seq_ids.shape[0] != query.shape[0]:
        raise ValueError(
            f"seq_ids and slots must be int32, with one id for each query, not {seq_ids.dtype} "
            f"{tuple(seq_ids.shape)} and {slots.dtype}"
        )


def _check_heads(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.stride(2) != 1 or tensor.stride(1) != tensor.shape[2]:
            raise ValueError("the heads of a sequence must be contiguous")


def _parts(query: Tensor, splits: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Allocate the output, or with several splits their partial outputs, maxima and sums."""
    num_seqs, heads, head_dim = query.shape
    if splits == 1:
        return query.new_empty((num_seqs, heads * head_dim)), None, None
    parts = query.new_empty((num_seqs, heads, splits, head_dim), dtype=torch.float32)
    tops, totals = (query.new_empty((num_seqs, heads, splits), dtype=torch.float32) for _ in range(2))
    return parts, tops, totals


def _combined(
    query: Tensor, parts: Tensor, tops: Tensor | None, totals: Tensor | None, splits: int
) -> Tensor:
    if splits == 1:
        return parts
    num_seqs, heads, head_dim = query.shape
    output = query.new_empty((num_seqs, heads * head_dim))
    launch(
        combine_parts_kernel,
        (num_seqs, heads),
        parts,
        tops,
        totals,
        output,
        HEADS=heads,
        HEAD_DIM=head_dim,
        BLOCK_D=block_of_head(head_dim),
        SPLITS=splits,
        num_warps=1,
    )
    return output


def _constants(query: Tensor, scale: float, tile: DecodeTile, splits: int) -> dict[str, Any]:
    return {
        "SCALE": scale,
        "HEADS": query.shape[1],
        "HEAD_DIM": query.shape[2],
        "BLOCK_D": block_of_head(query.shape[2]),
        "BLOCK_N": tile.keys,
        "SPLITS": splits,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def launch_self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    scale: float,
    splits: int,
) -> Tensor:
    """Launch ``decode_self_attention`` without checks."""
    parts, tops, totals = _parts(query, splits)
    tile = tile_for(query.dtype, block_of_head(query.shape[2]))
    launch(
        decode_self_kernel,
        (query.shape[0], query.shape[1], splits),
        query,
        key,
        value,
        key_cache,
        value_cache,
        slots,
        seq_ids,
        positions,
        bias,
        parts,
        tops,
        totals,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        slots.stride(0),
        0 if bias is None else bias.shape[1] // 2,
        **_constants(query, scale, tile, splits),
    )
    return _combined(query, parts, tops, totals, splits)


def launch_cross_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    lengths: Tensor,
    scale: float,
    splits: int,
) -> Tensor:
    """Launch ``decode_cross_attention`` without checks."""
    parts, tops, totals = _parts(query, splits)
    tile = tile_for(query.dtype, block_of_head(query.shape[2]))
    launch(
        decode_cross_kernel,
        (query.shape[0], query.shape[1], splits),
        query,
        key_cache,
        value_cache,
        slots,
        seq_ids,
        lengths,
        parts,
        tops,
        totals,
        query.shape[0],
        query.stride(0),
        slots.stride(0),
        BLOCK_M=SHARED_SOURCE_SEQS,
        **_constants(query, scale, tile, splits),
    )
    return _combined(query, parts, tops, totals, splits)


@triton_op("precast::decode_self_attention", mutates_args={"key_cache", "value_cache"})
def decode_self_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    positions: Tensor,
    bias: Tensor | None,
    scale: float,
    splits: int,
) -> Tensor:
    """Write each sequence's key and value to the KV cache, then attend to its past and the new token.

    Args:
        query: ``[R, heads, head_dim]``; fp32, fp16 or bf16, like all others. The heads of a sequence are
            contiguous; any stride between sequences. ``head_dim`` is 1 to 256.
        key: like ``query``, the keys of the new tokens.
        value: like ``key``.
        key_cache: ``[slots, heads, head_dim]``, contiguous; changed in place.
        value_cache: like ``key_cache``.
        slots: int32 ``[N, longest]``, the slot of each position of each sequence; key and value are written
            to that of the sequence's own position, which no other active sequence may share.
        seq_ids: int32 ``[R]``, the active sequences: indices into ``slots`` and ``positions``. May repeat
            one.
        positions: int32 ``[N]``, below ``longest``.
        bias: fp32 ``[heads, 2 * max_distance + 1]``, added at ``max(k - position, -max_distance) +
            max_distance``, or None.
        scale: factor of the scores, positive.
        splits: a power of two, the number of parts in which the past is read.

    Returns:
        ``[R, heads * head_dim]``, of the query's dtype.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    _check(query, key_cache, value_cache, slots, seq_ids)
    _check_heads(query, key, value)
    if bias is not None and (bias.dtype != torch.float32 or bias.shape[1] % 2 == 0):
        raise ValueError(
            f"bias must be fp32 [heads, 2 * max_distance + 1], not {bias.dtype} {tuple(bias.shape)}"
        )
    return launch_self_attention(
        query, key, value, key_cache, value_cache, slots, seq_ids, positions, bias, scale, splits
    )


@triton_op("precast::decode_cross_attention", mutates_args={})
def decode_cross_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    lengths: Tensor,
    scale: float,
    splits: int,
) -> Tensor:
    """Attend to each sequence's source.

    Sequences with the same first slot have the same source; one program reads it for up to 16 adjacent ones.

    Args:
        query: ``[R, heads, head_dim]``, as for ``decode_self_attention``.
        key_cache: ``[slots, heads, head_dim]``, contiguous.
        value_cache: like ``key_cache``.
        slots: int32 ``[N, longest source]``.
        seq_ids: int32 ``[R]``, the active sequences: indices into ``slots`` and ``lengths``.
        lengths: int32 ``[N]``, source tokens.
        scale: factor of the scores, positive.
        splits: a power of two, the number of parts in which a source is read.

    Returns:
        ``[R, heads * head_dim]``, of the query's dtype; zero if the source is empty.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    _check(query, key_cache, value_cache, slots, seq_ids)
    _check_heads(query)
    return launch_cross_attention(query, key_cache, value_cache, slots, seq_ids, lengths, scale, splits)


def decode_attention_reference(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    lengths: Tensor,
    bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Both attentions in plain torch, one sequence at a time, computed in at least fp32.

    For self-attention the KV cache holds the new token's key already, and ``lengths`` are positions plus one.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    out = torch.zeros(query.shape, dtype=wide)
    for index, seq_id in enumerate(seq_ids.tolist()):
        length = int(lengths[seq_id])
        if length:
            at = slots[seq_id, :length].long()
            scores = torch.einsum("hd,khd->hk", query[index].to(wide), key_cache[at].to(wide)) * scale
            if bias is not None:
                max_distance = bias.shape[1] // 2
                distance = torch.arange(length) - (length - 1)
                scores = scores + bias.to(wide)[:, distance.clamp(min=-max_distance) + max_distance]
            out[index] = torch.einsum("hk,khd->hd", scores.softmax(-1), value_cache[at].to(wide))
    return out.flatten(1).to(query.dtype)
