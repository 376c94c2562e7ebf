"""The interface of decode operators, which each target implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class KVCache:
    """Keys and values of one layer, ``[slots, heads, head_dim]``; a slot holds those of one token."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class StepState:
    """The decoder state of one step: ``R`` active sequences out of ``N`` for which there is state.

    Attributes:
        seq_ids: ids of the active sequences, int32 ``[R]``.
        tokens: token that each sequence consumes in this step, int32 ``[N]``.
        positions: number of tokens that each sequence consumed before, int32 ``[N]``.
        kv_slots: self-attention slot of each position, int32 ``[N, max_target_length]``. The step writes to
            the slot at the sequence's current position. Beams with a common past share slots.
        cross_slots: cross-attention slot of each source token, int32 ``[N, max_source_length]``.
        cross_lengths: number of source tokens, int32 ``[N]``.
        self_span: ``0 .. S - 1``, int32 ``[S]``, for the ``S`` positions to read; None on CUDA.
        cross_span: like ``self_span``, for the source.
    """

    seq_ids: Tensor
    tokens: Tensor
    positions: Tensor
    kv_slots: Tensor
    cross_slots: Tensor
    cross_lengths: Tensor
    self_span: Tensor | None
    cross_span: Tensor | None


class DecodeOps(Protocol):
    """Attention of one step over the KV cache of all requests."""

    def visible(self, bias: Tensor | None) -> Any:
        """Return the mask and bias for ``self_attention``, computed once for all layers that share a bias.

        Args:
            bias: ``[heads, 2 * max_distance + 1]`` by the distance of key and query, or None.
        """
        ...

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Any, scale: float
    ) -> Tensor:
        """Write this step's ``key`` and ``value`` into the cache, then attend to the sequence's whole past.

        Args:
            query, key, value: ``[R, heads, head_dim]``.
            cache: The layer's cache; changed in place.
            visible: The result of ``visible``.
            scale: Factor of the scores.

        Returns:
            ``[R, heads * head_dim]``.
        """
        ...

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        """Attend to the source: ``query`` ``[R, heads, head_dim]`` to ``[R, heads * head_dim]``."""
        ...


SourceWriter = Callable[[Tensor, nn.Linear, Tensor, KVCache], None]
"""Writes the keys and values of sources to the cross-attention KV cache of one layer. Arguments: hidden
states ``[T, size]``, the projection to keys and values, int32 slots ``[T]``, and the cache."""


def write_source(hidden: Tensor, kv: nn.Linear, slots: Tensor, cache: KVCache) -> None:
    """Write keys and values of sources in plain torch; see ``SourceWriter``."""
    key, value = kv(hidden).view(hidden.shape[0], 2, *cache.key.shape[1:]).unbind(1)
    at = slots.long()
    cache.key.index_put_((at,), key)
    cache.value.index_put_((at,), value)


DecodeOpsFactory = Callable[[StepState], DecodeOps]
