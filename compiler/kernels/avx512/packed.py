"""Attention and pooling of packed sequences, without padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import NUMBERS, TYPES, Kernel, Operand, pointer
from precast.compiler.kernels.torch.packed import TorchPackedOps
from precast.compiler.models.packed_ops import PackedLayout
from precast.compiler.models.spec import Window


@custom_op("precast::sequence_attention", mutates_args=())
def sequence_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    bias: Tensor | None,
    left: int,
    right: int,
    scale: float,
) -> Tensor:
    """``softmax(scale * Q K^T + bias) V`` within each sequence.

    Args:
        query: ``[T, heads, head_dim]``, fp32 or bf16; any stride between tokens.
        key: ``[T, kv_heads, head_dim]``.
        value: like ``key``.
        cu_seqlens: int32 ``[B + 1]``.
        bias: fp32 ``[heads, 2 * max_distance + 1]`` by distance, or None.
        left: visible keys to the left of a query; -1 for all.
        right: visible keys to its right; -1 for all.
        scale: factor of the scores.

    Returns:
        ``[T, heads * head_dim]``; zeros for spare tokens.
    """
    layout = PackedLayout(query.shape[0], cu_seqlens)
    key_positions = torch.arange(max(1, int(layout.lengths.max())), dtype=torch.int32)
    ops = TorchPackedOps(layout, key_positions, torch.float32, 1)
    window = (None if left < 0 else left, None if right < 0 else right)
    mask = ops.visible(window, bias)
    out = ops.attention(query.float(), key.float(), value.float(), mask, scale)
    live = layout.token < cu_seqlens[-1]
    return torch.where(live[:, None], out, 0.0).to(query.dtype)


@sequence_attention.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty((query.shape[0], query.shape[1] * query.shape[2]))


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    query, key, value = (tensors[name] for name in ("query", "key", "value"))
    offsets, bias, out = tensors["cu_seqlens"], tensors["bias"], tensors["out"]
    assert query and key and value and offsets and out
    heads = ", ".join(f"{{{tensor.at}, {tensor.strides[0]}}}" for tensor in (query, key, value))
    max_distance = "0" if bias is None else f"({bias.sizes[1]} - 1) / 2"
    sizes = ", ".join(
        [
            query.sizes[0], f"{offsets.sizes[0]} - 1", query.sizes[1], key.sizes[1], query.sizes[2],
            str(arguments["left"]), str(arguments["right"]), max_distance, f"{arguments['scale']!r}f",
        ]
    )  # fmt: skip
    return (
        f"precast::packed_attention<{TYPES[query.dtype]}>("
        f"{heads}, {offsets.at}, {pointer(bias)}, {out.at}, {{{sizes}}});"
    )


ATTENTION = Kernel(
    torch.ops.precast.sequence_attention.default,
    "packed_attention.h",
    {"query": 2, "key": 2, "value": 2},
    _call,
)


@custom_op("precast::sequence_pool", mutates_args=())
def sequence_pool(rows: Tensor, begin: Tensor, end: Tensor, weight: Tensor | None, largest: bool) -> Tensor:
    """Sum or maximum over the tokens ``begin .. end - 1`` of each sequence.

    Args:
        rows: ``[T, size]``, fp32 or bf16.
        begin: int64 ``[B]``.
        end: int64 ``[B]``.
        weight: fp32 ``[T]``, a factor of each token, or None; for sums.
        largest: True for the maximum, False for the sum.

    Returns:
        fp32 ``[B, size]``; for an empty range zero, or the lowest finite number for maxima.
    """
    wide = rows.float() if weight is None else rows.float() * weight[:, None]
    empty = torch.full_like(wide[0], torch.finfo(torch.float32).min if largest else 0.0)
    parts = [wide[first:last] for first, last in zip(begin.tolist(), end.tolist(), strict=True)]
    return torch.stack(
        [empty if not len(part) else part.amax(0) if largest else part.sum(0) for part in parts]
    )


@sequence_pool.register_fake
def _(rows: Tensor, begin: Tensor, end: Tensor, weight: Tensor | None, largest: bool) -> Tensor:
    return rows.new_empty((begin.shape[0], rows.shape[1]), dtype=torch.float32)


def _pool_call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    rows, begin, end, out = (tensors[name] for name in ("rows", "begin", "end", "out"))
    assert rows and begin and end and out
    which = "Largest" if arguments["largest"] else "Total"
    return (
        f"precast::pool_sequences<precast::{which}, {NUMBERS[rows.dtype]}>({rows.at}, {begin.at}, {end.at}, "
        f"{pointer(tensors['weight'])}, {out.at}, {begin.sizes[0]}, {rows.sizes[1]});"
    )


POOL = Kernel(torch.ops.precast.sequence_pool.default, "pool.h", {}, _pool_call)


@dataclass(frozen=True, eq=False)
class Visible:
    """The mask of ``sequence_attention``: visible keys to the left and right, -1 for all, and the bias."""

    left: int
    right: int
    bias: Tensor | None


class Avx512PackedOps:
    """Implements ``packed_ops.PackedOps``."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout

    def visible(self, window: Window, bias: Tensor | None) -> Visible:
        left, right = (-1 if side is None else side for side in window)
        return Visible(left, right, None if bias is None else bias.float().contiguous())

    def attention(self, query: Tensor, key: Tensor, value: Tensor, visible: Visible, scale: float) -> Tensor:
        out: Tensor = sequence_attention(
            query, key, value, self._layout.cu_seqlens, visible.bias, visible.left, visible.right, scale
        )
        return out

    def segment_sum(self, x: Tensor, begin: Tensor, weight: Tensor | None = None) -> Tensor:
        sums: Tensor = sequence_pool(x, begin, self._layout.ends, weight, False)
        return sums

    def segment_max(self, x: Tensor, begin: Tensor) -> Tensor:
        maxima: Tensor = sequence_pool(x, begin, self._layout.ends, None, True)
        return maxima
