"""Packed operations in Triton, without padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precast.compiler.kernels.triton.packed_attention import packed_attention
from precast.compiler.kernels.triton.segment_pool import segment_max, segment_sum
from precast.compiler.models.packed_ops import PackedLayout
from precast.compiler.models.spec import Window


@dataclass(frozen=True, eq=False)
class Visible:
    """The keys ``begin .. end - 1`` of each token, int32 ``[T]``, and the bias by distance."""

    begin: Tensor
    end: Tensor
    bias: Tensor | None


class TritonPackedOps:
    """Implements ``packed_ops.PackedOps``."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout
        self._ends = layout.ends.to(torch.int32)

    def visible(self, window: Window, bias: Tensor | None) -> Visible:
        """The range of visible keys of each token. That of a spare token is empty, so its output is zero."""
        layout = self._layout
        left, right = window
        begin, end = layout.starts[layout.sequence], layout.ends[layout.sequence]
        spare = layout.token >= end
        first, last = begin, end
        if left is not None:
            first = torch.maximum(begin, layout.token - left)
        if right is not None:
            last = torch.minimum(end, layout.token + (right + 1))
        first = torch.where(spare, end, first)
        last = torch.where(spare, end, last)
        table = None if bias is None else bias.float().contiguous()
        return Visible(first.to(torch.int32), last.to(torch.int32), table)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, visible: Visible, scale: float) -> Tensor:
        return packed_attention(query, key, value, visible.begin, visible.end, visible.bias, scale)

    def segment_sum(self, x: Tensor, begin: Tensor, weight: Tensor | None = None) -> Tensor:
        return segment_sum(x, begin.to(torch.int32), self._ends, weight)

    def segment_max(self, x: Tensor, begin: Tensor) -> Tensor:
        return segment_max(x, begin.to(torch.int32), self._ends)
