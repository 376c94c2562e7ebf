"""What a device does in its own way; everything else of a model is the same torch operators everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from precast.compiler.models.layout import PackedLayout
from precast.compiler.models.spec import Window


class PackedOps(Protocol):
    """Operations within the sequences of one packed batch."""

    def visible(self, window: Window, bias: Tensor | None) -> Any:
        """What ``attention`` needs to know of a window, made once for all layers that share it.

        Args:
            window: keys that a query may see.
            bias: ``[heads, 2 * reach + 1]``, added to the scores by the distance of key and query,
                clamped to ``-reach .. reach``; None adds nothing.
        """
        ...

    def attention(self, query: Tensor, key: Tensor, value: Tensor, visible: Any, scale: float) -> Tensor:
        """``softmax(scale * Q K^T + bias) V`` within each sequence.

        Args:
            query: ``[T, heads, head_dim]``.
            key: ``[T, kv_heads, head_dim]``; each is shared by ``heads / kv_heads`` query heads.
            value: as ``key``.
            visible: from ``visible``.
            scale: factor of the scores.

        Returns:
            ``[T, heads * head_dim]``.
        """
        ...

    def total(self, rows: Tensor, begin: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum over each sequence, from the token ``begin`` on.

        Args:
            rows: ``[T, size]``.
            begin: ``[B]``, a place in the packed batch.
            weight: fp32 ``[T]``, a factor of each row.

        Returns:
            fp32 ``[B, size]``.
        """
        ...

    def largest(self, rows: Tensor, begin: Tensor) -> Tensor:
        """Maximum over each sequence, from the token ``begin`` on.

        Returns:
            fp32 ``[B, size]``; finite and without meaning where a sequence has no such token.
        """
        ...


OpsFactory = Callable[[PackedLayout, Tensor | None], PackedOps]
"""Makes the operations of one batch from its layout and, where the graph has them, its key positions."""
