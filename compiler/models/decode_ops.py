"""Operators of a decoding step that each device implements in its own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class KVCache:
    """Keys and values of one layer, ``[slots, heads, head_dim]``; a slot holds one token's."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class StepState:
    """The decoder state in one step: ``R`` sequences are active among the ``N`` that there is state for.

    Attributes:
        rows: int32 ``[R]``, the active sequences.
        tokens: int32 ``[N]``, the token that a sequence consumes in this step.
        positions: int32 ``[N]``, the number of tokens consumed before.
        kv_slots: int32 ``[N, max_target_length]``: the self-attention slot of each position of a sequence.
            The step writes to the one at the sequence's own position. Beams with a common past share slots.
        cross_slots: int32 ``[N, max_source_length]``: the cross-attention slot of each source token.
        cross_lengths: int32 ``[N]``, source tokens.
        self_span: int32 ``[S]``, ``0 .. S - 1``; on a CPU its size says how far to read, None elsewhere.
        cross_span: As ``self_span``, for the source.
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
"""Writes a source's keys and values. Its arguments: hidden states ``[T, size]``, their projection (to keys,
then values), int32 slots ``[T]``, the cache of one layer."""


def write_source(hidden: Tensor, kv: nn.Linear, slots: Tensor, cache: KVCache) -> None:
    """The ``SourceWriter`` in plain torch."""
    key, value = kv(hidden).view(hidden.shape[0], 2, *cache.key.shape[1:]).unbind(1)
    at = slots.long()
    cache.key.index_put_((at,), key)
    cache.value.index_put_((at,), value)


DecodeOpsFactory = Callable[[StepState], DecodeOps]
