"""What a device does in its own way in one step of a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class KVCache:
    """Keys and values of one layer, ``[slots, heads, head_dim]``; a place holds one token's."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class StepState:
    """What the rows of one step know: ``R`` rows are active among the ``N`` that there is state for.

    Attributes:
        rows: int32 ``[R]``, the active rows.
        tokens: int32 ``[N]``, the token that a row consumes in this step.
        positions: int32 ``[N]``, how many tokens it has consumed before.
        kv_slots: int32 ``[N, longest]``: the place in the self kv_cache of each position that a row sees. The
            entry at its own position is where this step writes. Beams that share a past share slots.
        cross_slots: int32 ``[N, longest source]``: the place in the cross kv_cache of each source token.
        cross_lengths: int32 ``[N]``, source tokens.
        self_span: int32 ``[S]``, ``0 .. S - 1``; on a CPU its size says how far to read, None elsewhere.
        cross_span: as ``self_span``, for the source.
    """

    rows: Tensor
    tokens: Tensor
    positions: Tensor
    kv_slots: Tensor
    cross_slots: Tensor
    cross_lengths: Tensor
    self_span: Tensor | None
    cross_span: Tensor | None


class DecodeOps(Protocol):
    """Attention of one step, over kv_cache that requests share."""

    def visible(self, bias: Tensor | None) -> Any:
        """What ``self_attention`` needs to know, made once for all layers that share a bias.

        Args:
            bias: ``[heads, 2 * reach + 1]`` by the distance of key and query, or None.
        """
        ...

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Any, scale: float
    ) -> Tensor:
        """Write this step's ``key`` and ``value`` into the cache, then attend to a row's whole past.

        Args:
            query, key, value: ``[R, heads, head_dim]``.
            cache: of this layer; changed in place.
            visible: from ``visible``.
            scale: factor of the scores.

        Returns:
            ``[R, heads * head_dim]``.
        """
        ...

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        """Attend to a row's source: ``query`` ``[R, heads, head_dim]`` to ``[R, heads * head_dim]``."""
        ...


SourceWriter = Callable[[Tensor, nn.Linear, Tensor, KVCache], None]
"""Writes a source's keys and values: hidden states ``[T, size]``, what projects them (to keys, then values),
int32 slots ``[T]``, the cache of one layer."""


def write_source(hidden: Tensor, kv: nn.Linear, slots: Tensor, cache: KVCache) -> None:
    """As a ``SourceWriter`` in plain torch."""
    key, value = kv(hidden).view(hidden.shape[0], 2, *cache.key.shape[1:]).unbind(1)
    at = slots.long()
    cache.key.index_put_((at,), key)
    cache.value.index_put_((at,), value)


DecodeOpsFactory = Callable[[StepState], DecodeOps]
