"""One step of a decoder on a CPU: each row gathers its own keys and values from the kv_cache.

Plain torch operators; the rows of a step are few, so that the gathered copies stay small beside the weights
that the step reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from precast.compiler.models.decode_ops import KVCache, StepState

_MOST_HEADS = 16
"""Beyond, multiplying zeros takes longer than it saves."""


class GatheredOps:
    """Implements ``model.decode_ops.DecodeOps``.

    Args:
        state: of the step, with its spans.
    """

    def __init__(self, state: StepState) -> None:
        assert state.self_span is not None and state.cross_span is not None
        rows = state.rows.long()
        self._position = state.positions[rows].long()
        self._span = state.self_span.long()
        kv_slots = state.kv_slots[rows].long()
        self._at = kv_slots.gather(1, self._position[:, None])[:, 0]
        self._self_slots = kv_slots[:, self._span]
        self._seen = self._span[None, :] <= self._position[:, None]
        source = state.cross_span.long()
        self._cross_slots = state.cross_slots[rows].long()[:, source]
        self._source_seen = source[None, :] < state.cross_lengths[rows].long()[:, None]

    def visible(self, bias: Tensor | None) -> Tensor:
        """The additive mask, fp32, broadcastable to ``[R, heads, S]``."""
        shown = torch.zeros((), device=self._span.device)
        if bias is not None:
            reach = bias.shape[1] // 2
            distance = self._span[None, :] - self._position[:, None]
            shown = bias.float()[:, distance.clamp(-reach, reach) + reach].transpose(0, 1)
        return _masked(shown, self._seen)

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Tensor, scale: float
    ) -> Tensor:
        cache.key.index_put_((self._at,), key)
        cache.value.index_put_((self._at,), value)
        return _attend(query, cache, self._self_slots, visible, scale)

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        mask = _masked(torch.zeros((), device=query.device), self._source_seen)
        return _attend(query, cache, self._cross_slots, mask, scale)


def _masked(shown: Tensor, seen: Tensor) -> Tensor:
    """Finite, as a row without a request sees nothing."""
    return torch.where(seen[:, None, :], shown, torch.finfo(torch.float32).min)


def _attend(query: Tensor, cache: KVCache, slots: Tensor, mask: Tensor, scale: float) -> Tensor:
    heads = query.shape[1]
    if heads > _MOST_HEADS:
        return _attend_each_head(query, cache, slots, mask, scale)
    key, value = cache.key.flatten(1)[slots], cache.value.flatten(1)[slots]
    # Every head's query in a row of its own with zeros for the other heads: two products over all heads at
    # once. They multiply `heads` times as many numbers, most of them zeros, but in two calls of oneDNN.
    apart = torch.eye(heads, dtype=query.dtype, device=query.device)
    spread = (query[:, None] * apart[None, :, :, None]).flatten(2)
    scores = torch.bmm(spread, key.transpose(1, 2)).float() * scale + mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    found = torch.bmm(weights, value).view(*query.shape[:1], heads, heads, -1)
    return found.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)


def _attend_each_head(query: Tensor, cache: KVCache, slots: Tensor, mask: Tensor, scale: float) -> Tensor:
    key, value = cache.key[slots], cache.value[slots]
    scores = (query[:, None] * key).float().sum(-1).transpose(1, 2) * scale + mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    return (weights.transpose(1, 2)[..., None] * value).sum(1).flatten(1)
