"""Where every token of a packed batch stands, derived inside the graph from ``cu_seqlens``."""

from __future__ import annotations

import torch
from torch import Tensor

from precast.compiler.model.spec import Window


class PackedLayout:
    """Index tables of one packed batch of ``T`` tokens, ``B`` sequences, the longest of ``S`` tokens.

    Spare tokens (behind the last sequence) read as further positions of the last sequence; what is
    computed for them is finite and never read.

    Args:
        tokens: ``T``.
        cu_seqlens: int32 ``[B + 1]``.
        key_positions: int32 ``[S]``, ``0 .. S - 1``.
        max_length: the largest ``S`` that the graph is traced for.
    """

    def __init__(self, tokens: int, cu_seqlens: Tensor, key_positions: Tensor, max_length: int) -> None:
        self.max_length = max_length
        offsets = cu_seqlens.to(torch.int64)
        keys = key_positions.to(torch.int64)
        token = torch.arange(tokens, device=cu_seqlens.device)
        self.starts = offsets[:-1]
        self.lengths = offsets[1:] - self.starts
        self.keys = keys
        sequences, longest = self.lengths.shape[0], keys.shape[0]
        # A spare token lies behind every sequence; the clamp keeps its row inside the tables.
        sequence = torch.searchsorted(offsets[1:], token, right=True).clamp(max=sequences - 1)
        self.sequence = sequence
        self.position = (token - self.starts[sequence]).clamp(min=0, max=longest - 1)
        self.padded_from = (self.starts[:, None] + keys[None, :]).clamp(max=tokens - 1)
        self.packed_from = sequence * longest + self.position
        self.live = keys[None, :] < self.lengths[:, None]
        self.last = (self.starts + self.lengths - 1).clamp(min=0)
        self.first = self.starts.clamp(max=tokens - 1)

    def padded(self, packed: Tensor) -> Tensor:
        """``[T, ...]`` to ``[B, S, ...]``; rows beyond a sequence's end repeat other tokens."""
        return packed[self.padded_from]

    def padded_heads(self, packed: Tensor, heads: int) -> Tensor:
        """``[T, h, size]`` to ``[B, heads, S, size]``, in one pass; each of ``h`` serves ``heads / h``."""
        of_head = torch.arange(heads, device=packed.device) // (heads // packed.shape[1])
        return packed[self.padded_from[:, None, :], of_head[None, :, None]]

    def packed(self, padded: Tensor) -> Tensor:
        """``[B, S, ...]`` back to ``[T, ...]``."""
        return padded.flatten(0, 1)[self.packed_from]

    def visible(self, window: Window) -> Tensor:
        """bool, ``[B, 1, 1, S]`` or ``[B, 1, S, S]``: which keys a query may see."""
        left, right = window
        mask = self.live[:, None, None, :]
        if left is None and right is None:
            return mask
        distance = self.keys[None, :] - self.keys[:, None]
        if left is not None:
            mask = mask & (distance >= -left)
        if right is not None:
            mask = mask & (distance <= right)
        return mask
