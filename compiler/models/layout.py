"""Where every token of a packed batch stands, derived inside the graph from ``cu_seqlens``."""

from __future__ import annotations

import torch
from torch import Tensor


class PackedLayout:
    """Index tables of one packed batch of ``T`` tokens and ``B`` sequences, int64.

    Spare tokens (behind the last sequence) read as further positions of the last sequence; what is
    computed for them is finite and never read.

    Args:
        tokens: ``T``.
        cu_seqlens: int32 ``[B + 1]``.
    """

    def __init__(self, tokens: int, cu_seqlens: Tensor) -> None:
        self.tokens = tokens
        self.cu_seqlens = cu_seqlens
        offsets = cu_seqlens.to(torch.int64)
        self.token = torch.arange(tokens, device=cu_seqlens.device)
        self.starts = offsets[:-1]
        self.ends = offsets[1:]
        self.lengths = self.ends - self.starts
        # The sequences that end at or before a token; a search in `ends` is what torch 2.11 cannot lower.
        ended = cu_seqlens[None, 1:] <= self.token[:, None]
        found = ended.sum(dim=1, dtype=torch.int64)
        # A spare token lies behind every sequence; the clamp keeps its row inside the tables.
        self.sequence = found.clamp(max=self.lengths.shape[0] - 1)
        self.position = (self.token - self.starts[self.sequence]).clamp(min=0)
        self.first = self.starts.clamp(max=tokens - 1)
        self.last = (self.ends - 1).clamp(min=0)
