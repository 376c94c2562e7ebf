"""The layout of a packed batch, and the operations on its sequences that each target implements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from precast.compiler.models.spec import Window


class PackedLayout:
    """Index tables of a packed batch of ``T`` tokens and ``B`` sequences, int64, computed inside the graph.

    Spare tokens (after the last sequence) count as further positions of the last sequence; their results are
    finite and never read.

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
        # The number of sequences that end at or before a token. torch 2.11 cannot lower a search in `ends`.
        ended = (cu_seqlens[None, 1:] <= self.token[:, None]).sum(dim=1, dtype=torch.int64)
        # A spare token follows every sequence; the clamp keeps its index inside the tables.
        self.sequence = ended.clamp(max=self.lengths.shape[0] - 1)
        self.position = (self.token - self.starts[self.sequence]).clamp(min=0)
        self.first = self.starts.clamp(max=tokens - 1)
        self.last = (self.ends - 1).clamp(min=0)


class PackedOps(Protocol):
    """Operations within the sequences of one packed batch; all others are the same for every target."""

    def visible(self, window: Window, bias: Tensor | None) -> Any:
        """Prepare the mask of ``attention``, once for all layers with the same window and bias.

        Args:
            window: keys that a query sees.
            bias: ``[heads, 2 * max_distance + 1]``, added to the scores by the distance of key and query,
                clamped to ``-max_distance .. max_distance``; None adds nothing.
        """
        ...

    def attention(self, query: Tensor, key: Tensor, value: Tensor, visible: Any, scale: float) -> Tensor:
        """``softmax(scale * Q K^T + bias) V`` within each sequence.

        Args:
            query: ``[T, heads, head_dim]``.
            key: ``[T, kv_heads, head_dim]``; each is shared by ``heads / kv_heads`` query heads.
            value: like ``key``.
            visible: returned by ``visible``.
            scale: factor of the scores.

        Returns:
            ``[T, heads * head_dim]``.
        """
        ...

    def segment_sum(self, x: Tensor, begin: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum over the tokens of each sequence, starting at token ``begin``.

        Args:
            x: ``[T, size]``.
            begin: ``[B]``, indices into the packed batch.
            weight: fp32 ``[T]``, a factor of each token.

        Returns:
            fp32 ``[B, size]``.
        """
        ...

    def segment_max(self, x: Tensor, begin: Tensor) -> Tensor:
        """Maximum over the tokens of each sequence, starting at token ``begin``.

        Returns:
            fp32 ``[B, size]``; finite and without meaning if a sequence has no such token.
        """
        ...


OpsFactory = Callable[[PackedLayout, Tensor | None], PackedOps]
"""Creates the operations of one batch from its layout and, if the graph has them, its key positions."""
