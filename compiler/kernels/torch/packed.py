"""Packed operations in plain torch, which gather tokens to padded ``[B, S]`` tensors for these alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from precast.compiler.models.packed_ops import PackedLayout
from precast.compiler.models.spec import Window

LONGEST_SCORES = 1024
"""Up to this input length scores are materialized: two batched matrix products with a fused softmax between
them are faster than PyTorch's blocked CPU kernel at small head sizes. For longer inputs the scores of one
input would exceed the caches, and then the memory."""


class TorchPackedOps:
    """Implements ``packed_ops.PackedOps``; ``S`` is the length of the longest sequence.

    Args:
        layout: of the batch.
        key_positions: int32 ``[S]``, ``0 .. S - 1``.
        dtype: of the mask.
        max_length: the largest ``S`` that the graph is traced for.
    """

    def __init__(
        self, layout: PackedLayout, key_positions: Tensor, dtype: torch.dtype, max_length: int
    ) -> None:
        self._layout = layout
        self._dtype = dtype
        self._max_length = max_length
        self._keys = keys = key_positions.to(torch.int64)
        longest = keys.shape[0]
        self._padded_from = (layout.starts[:, None] + keys[None, :]).clamp(max=layout.tokens - 1)
        self._packed_from = layout.sequence * longest + layout.position.clamp(max=longest - 1)
        self._live = keys[None, :] < layout.lengths[:, None]

    def visible(self, window: Window, bias: Tensor | None) -> Tensor:
        """The additive mask, broadcastable to ``[B, heads, S, S]``.

        It is zero or the bias for visible keys, else the lowest finite number: a sequence of length zero has
            no
        visible key, and a softmax of nothing but ``-inf`` is NaN.
        """
        left, right = window
        seen = self._live[:, None, None, :]
        distance = self._keys[None, :] - self._keys[:, None]
        if left is not None:
            seen = seen & (distance >= -left)
        if right is not None:
            seen = seen & (distance <= right)
        added = torch.zeros((), dtype=self._dtype, device=seen.device)
        if bias is not None:
            max_distance = bias.shape[1] // 2
            index = distance.clamp(-max_distance, max_distance) + max_distance
            added = bias[:, index][None].to(self._dtype)
        return torch.where(seen, added, torch.finfo(self._dtype).min)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float) -> Tensor:
        heads = query.shape[1]
        q, k, v = (self._padded_heads(tensor, heads) for tensor in (query, key, value))
        if self._max_length > LONGEST_SCORES:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
        else:
            scores = (q @ k.transpose(-1, -2)).float() * scale + visible.float()
            out = scores.softmax(dim=-1).to(v.dtype) @ v
        return out.transpose(1, 2).flatten(2).flatten(0, 1)[self._packed_from]

    def segment_sum(self, x: Tensor, begin: Tensor, weight: Tensor | None = None) -> Tensor:
        live = self._live_from(begin).float()
        if weight is not None:
            live = live * weight[self._padded_from]
        return (x[self._padded_from].float() * live[..., None]).sum(dim=1)

    def segment_max(self, x: Tensor, begin: Tensor) -> Tensor:
        lowest = torch.finfo(torch.float32).min
        wide = x[self._padded_from].float()
        return wide.masked_fill(~self._live_from(begin)[..., None], lowest).amax(dim=1)

    def _live_from(self, begin: Tensor) -> Tensor:
        return self._live & (self._keys[None, :] >= (begin - self._layout.starts)[:, None])

    def _padded_heads(self, packed: Tensor, heads: int) -> Tensor:
        """Gather ``[T, h, size]`` to ``[B, heads, S, size]``, repeating each head ``heads / h`` times."""
        head = torch.arange(heads, device=packed.device) // (heads // packed.shape[1])
        return packed[self._padded_from[:, None, :], head[None, :, None]]
