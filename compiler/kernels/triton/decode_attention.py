"""Attention of a decoder's step over kv_cache: the operators, their tiles and their plain-torch forms."""

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

TOGETHER = 16
"""Rows whose common source one program reads once; as many as a matrix unit takes at least."""
MOST_SPLITS = 16
_PROGRAMS = 264
"""Wanted at least: two for each of an H100's multiprocessors."""
_WORTH = 64
"""Keys below which a part of a length is not worth a program."""


@dataclass(frozen=True)
class DecodeTile:
    """How one program walks a row's keys.

    Attributes:
        keys: in one step of its loop, a power of two from 16.
        warps: of 32 threads that run a program.
        stages: depth of the pipeline that loads ahead.
    """

    keys: int
    warps: int
    stages: int


def splits_for(rows: int, heads: int, longest: int) -> int:
    """In how many parts a row's keys are read: a power of two, more than one where rows are few.

    Args:
        rows: of a step.
        heads: of the attention.
        longest: keys that a row may have.
    """
    wanted = min(-(-_PROGRAMS // (rows * heads)), -(-longest // _WORTH), MOST_SPLITS)
    return 1 << max(0, wanted.bit_length() - 1)


def tile_for(dtype: torch.dtype, block_d: int) -> DecodeTile:
    """The tile for heads of ``block_d`` numbers, whose steps fill half of the registers.

    Chosen so that nothing spills on sm_80, sm_90 and sm_100; fp32 takes twice the registers.
    """
    keys = max(16, min(64, 4096 // block_d))
    if dtype is torch.float32:
        return DecodeTile(max(16, keys // 2), warps=8, stages=2)
    return DecodeTile(keys, warps=4, stages=2)


def _check(query: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, seq_ids: Tensor) -> None:
    if query.dtype not in DTYPES or key_cache.dtype != query.dtype or value_cache.dtype != query.dtype:
        raise ValueError(
            f"query and KV cache share one of {DTYPES}, not {query.dtype}, {key_cache.dtype}, {value_cache.dtype}"
        )
    if not 1 <= query.shape[2] <= LARGEST_HEAD:
        raise ValueError(f"a head has 1 to {LARGEST_HEAD} numbers, not {query.shape[2]}")
    if key_cache.shape != value_cache.shape or key_cache.shape[1:] != query.shape[1:]:
        shapes = f"{tuple(query.shape)}, {tuple(key_cache.shape)}, {tuple(value_cache.shape)}"
        raise ValueError(f"query and kv_cache do not fit each other: {shapes}")
    if not key_cache.is_contiguous() or not value_cache.is_contiguous():
        raise ValueError("kv_cache are contiguous")
    if rows.dtype != torch.int32 or slots.dtype != torch.int32 or rows.shape[0] != query.shape[0]:
        raise ValueError(
            f"rows and slots are int32, a row for each query, not {rows.dtype} {tuple(rows.shape)} and "
            f"{slots.dtype}"
        )


def _check_heads(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.stride(2) != 1 or tensor.stride(1) != tensor.shape[2]:
            raise ValueError("the heads of a row must stand side by side")


def _parts(query: Tensor, splits: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Where the programs write: the answer itself, or parts of it with their maxima and sums."""
    rows, heads, head_dim = query.shape
    if splits == 1:
        return query.new_empty((rows, heads * head_dim)), None, None
    parts = query.new_empty((rows, heads, splits, head_dim), dtype=torch.float32)
    tops, totals = (query.new_empty((rows, heads, splits), dtype=torch.float32) for _ in range(2))
    return parts, tops, totals


def _combined(
    query: Tensor, parts: Tensor, tops: Tensor | None, totals: Tensor | None, splits: int
) -> Tensor:
    if splits == 1:
        return parts
    rows, heads, head_dim = query.shape
    output = query.new_empty((rows, heads * head_dim))
    launch(
        combine_parts_kernel,
        (rows, heads),
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
    """``decode_self_attention``, unchecked."""
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
    """``decode_cross_attention``, unchecked."""
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
        BLOCK_M=TOGETHER,
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
    """Write each row's key and value into the kv_cache, and attend to its whole past and itself.

    Args:
        query: ``[R, heads, head_dim]``; fp32, fp16 or bf16, like all others. The heads of a row stand side by
            side; rows may have any stride. ``head_dim`` is 1 to 256.
        key: as ``query``: of the token that the row consumes.
        value: as ``key``.
        key_cache: ``[P, heads, head_dim]``, contiguous; changed in place.
        value_cache: as ``key_cache``.
        slots: int32 ``[N, longest]``, the place of each position of each row; at the row's own position it
            is where its key and value go. Rows that run at the same time share no such place.
        rows: int32 ``[R]``, the rows of ``slots`` and ``positions``. One may stand twice.
        positions: int32 ``[N]``, below ``longest``.
        bias: fp32 ``[heads, 2 * max_distance + 1]``, added at ``max(k - position, -max_distance) + max_distance``, or None.
        scale: factor of the scores, positive.
        splits: a power of two, in how many parts the past is read.

    Returns:
        ``[R, heads * head_dim]``, of the query's dtype.

    Raises:
        ValueError: for shapes, strides or dtypes other than these.
    """
    _check(query, key_cache, value_cache, slots, seq_ids)
    _check_heads(query, key, value)
    if bias is not None and (bias.dtype != torch.float32 or bias.shape[1] % 2 == 0):
        raise ValueError(f"a bias is fp32 [heads, 2 * max_distance + 1], not {bias.dtype} {tuple(bias.shape)}")
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
    """Attend to each row's source.

    Rows whose first place is the same have the same source: of up to 16 that stand side by side, one program
    reads it for all.

    Args:
        query: ``[R, heads, head_dim]``, as for ``decode_self_attention``.
        key_cache: ``[P, heads, head_dim]``, contiguous.
        value_cache: as ``key_cache``.
        slots: int32 ``[N, longest source]``.
        rows: int32 ``[R]``, the rows of ``slots`` and ``lengths``.
        lengths: int32 ``[N]``.
        scale: factor of the scores, positive.
        splits: a power of two, in how many parts a source is read.

    Returns:
        ``[R, heads * head_dim]``, of the query's dtype; zero where the source is empty.

    Raises:
        ValueError: for shapes, strides or dtypes other than these.
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
    """Both attentions in plain torch, one row after the other, computed in at least fp32.

    For self-attention the kv_cache hold the row's own key already, and ``lengths`` are positions plus one.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    found = torch.zeros(query.shape, dtype=wide)
    for index, row in enumerate(rows.tolist()):
        length = int(lengths[row])
        if length:
            at = slots[row, :length].long()
            scores = torch.einsum("hd,khd->hk", query[index].to(wide), key_cache[at].to(wide)) * scale
            if bias is not None:
                max_distance = bias.shape[1] // 2
                distance = torch.arange(length) - (length - 1)
                scores = scores + bias.to(wide)[:, distance.clamp(min=-max_distance) + max_distance]
            found[index] = torch.einsum("hk,khd->hd", scores.softmax(-1), value_cache[at].to(wide))
    return found.flatten(1).to(query.dtype)
