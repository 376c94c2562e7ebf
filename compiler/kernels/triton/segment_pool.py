"""Sums and maxima over the tokens of each sequence of a packed batch."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from precast.compiler.kernels.triton.launch import launch

ROWS, COLUMNS, WARPS = 32, 64, 4
"""The tile of one iteration: two loads of 16 bytes (bf16) by each of 128 threads."""


@triton.jit
def _larger(left, right):
    # Propagates NaN, as torch does.
    return tl.maximum(left, right, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def segment_pool_kernel(
    rows,
    begin,
    end,
    weight,
    output,
    columns,
    row_stride,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    MAXIMUM: tl.constexpr,
):
    segment = tl.program_id(0)
    first = tl.load(begin + segment)
    last = tl.load(end + segment)
    offsets = tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    inside = column < columns
    start = float("-inf") if MAXIMUM else 0.0
    # Rows of a tile are reduced once, after the loop.
    running = tl.full([BLOCK_T, BLOCK_H], start, dtype=tl.float32)
    for position in range(first, last, BLOCK_T):
        live = position + offsets < last
        # 64 bits: a row's offset may exceed 2**31.
        at = rows + tl.cast(position, tl.int64) * row_stride
        at += offsets[:, None] * row_stride + column[None, :]
        tile = tl.load(at, mask=live[:, None] & inside[None, :], other=start).to(tl.float32)
        if MAXIMUM:
            running = _larger(running, tile)
        elif weight is not None:
            running += tile * tl.load(weight + position + offsets, mask=live, other=0.0)[:, None]
        else:
            running += tile
    if MAXIMUM:
        pooled = tl.reduce(running, 0, _larger)
        pooled = tl.where(first < last, pooled, 0.0)
    else:
        pooled = tl.sum(running, 0)
    tl.store(output + tl.cast(segment, tl.int64) * columns + column, pooled, mask=inside)


def _launch(rows: Tensor, begin: Tensor, end: Tensor, weight: Tensor | None, maximum: bool) -> Tensor:
    if rows.ndim != 2 or rows.stride(1) != 1 or not rows.dtype.is_floating_point:
        raise ValueError(
            f"rows must be floating [T, H] with last stride 1, not {rows.dtype} {tuple(rows.shape)}"
        )
    if begin.dtype != torch.int32 or end.dtype != torch.int32:
        raise ValueError(f"begin and end must be int32, not {begin.dtype} and {end.dtype}")
    if weight is not None and weight.dtype != torch.float32:
        raise ValueError(f"weight must be fp32, not {weight.dtype}")
    segments, columns = begin.shape[0], rows.shape[1]
    output = rows.new_empty((segments, columns), dtype=torch.float32)
    launch(
        segment_pool_kernel,
        (segments, triton.cdiv(columns, COLUMNS)),
        rows,
        begin,
        end,
        weight,
        output,
        columns,
        rows.stride(0),
        BLOCK_T=ROWS,
        BLOCK_H=COLUMNS,
        MAXIMUM=maximum,
        num_warps=WARPS,
    )
    return output


@triton_op("precast::segment_sum", mutates_args={})
def segment_sum(rows: Tensor, begin: Tensor, end: Tensor, weight: Tensor | None) -> Tensor:
    """The (weighted) sum of the rows ``begin[b] <= t < end[b]`` of each segment, accumulated in fp32.

    Rows outside all segments are never read and may hold any values.

    Args:
        rows: ``[T, H]``, of any floating dtype; any row stride, last stride 1.
        begin: int32 ``[B]``.
        end: int32 ``[B]``.
        weight: fp32 ``[T]``, a factor of each row, or None.

    Returns:
        fp32 ``[B, H]``; zero for empty segments.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    return _launch(rows, begin, end, weight, maximum=False)


@triton_op("precast::segment_max", mutates_args={})
def segment_max(rows: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """The elementwise maximum of the rows of each segment; NaN propagates.

    Arguments, result and errors are those of ``segment_sum``.
    """
    return _launch(rows, begin, end, None, maximum=True)


def _members(rows: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Whether each row belongs to each segment, bool ``[B, T, 1]``."""
    position = torch.arange(rows.shape[0], device=rows.device)
    return ((begin[:, None] <= position) & (position < end[:, None]))[:, :, None]


def segment_sum_reference(rows: Tensor, begin: Tensor, end: Tensor, weight: Tensor | None) -> Tensor:
    """``segment_sum`` in plain torch, over ``[B, T, H]``; fp64 rows give fp64."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if weight is not None:
        wide = wide * weight[:, None]
    return wide.where(_members(rows, begin, end), 0).sum(1)


def segment_max_reference(rows: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """``segment_max`` in plain torch, over ``[B, T, H]``; fp64 rows give fp64."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    greatest = wide.where(_members(rows, begin, end), -torch.inf).amax(1)
    return greatest.where((begin < end)[:, None], 0)
