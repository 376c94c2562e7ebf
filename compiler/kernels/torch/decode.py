"""Attention of a decode step in plain torch: keys and values of each sequence are gathered from the KV cache.

A step has few sequences, so the gathered copies are small compared with the weights that the step reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from precast.compiler.models.decode_ops import KVCache, StepState

_MAX_SPREAD_HEADS = 16
"""With more heads, multiplying zeros costs more than it saves; see ``_attend``."""


class TorchDecodeOps:
    """Implements ``decode_ops.DecodeOps``.

    Args:
        state: of the step, with its spans.
    """

    def __init__(self, state: StepState) -> None:
        assert state.self_span is not None and state.cross_span is not None
        seq_ids = state.seq_ids.long()
        self._position = state.positions[seq_ids].long()
        self._span = state.self_span.long()
        kv_slots = state.kv_slots[seq_ids].long()
        self._new_slots = kv_slots.gather(1, self._position[:, None])[:, 0]
        self._self_slots = kv_slots[:, self._span]
        self._self_seen = self._span[None, :] <= self._position[:, None]
        cross_span = state.cross_span.long()
        self._cross_slots = state.cross_slots[seq_ids].long()[:, cross_span]
        self._cross_seen = cross_span[None, :] < state.cross_lengths[seq_ids].long()[:, None]

    def visible(self, bias: Tensor | None) -> Tensor:
        """The additive mask, fp32, broadcastable to ``[R, heads, S]``."""
        added = torch.zeros((), device=self._span.device)
        if bias is not None:
            max_distance = bias.shape[1] // 2
            distance = self._span[None, :] - self._position[:, None]
            index = distance.clamp(-max_distance, max_distance) + max_distance
            added = bias.float()[:, index].transpose(0, 1)
        return _masked(added, self._self_seen)

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Tensor, scale: float
    ) -> Tensor:
        cache.key.index_put_((self._new_slots,), key)
        cache.value.index_put_((self._new_slots,), value)
        return _attend(query, cache, self._self_slots, visible, scale)

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        mask = _masked(torch.zeros((), device=query.device), self._cross_seen)
        return _attend(query, cache, self._cross_slots, mask, scale)


def _masked(added: Tensor, seen: Tensor) -> Tensor:
    """``added`` where ``seen``, else the lowest finite number: an unused sequence sees no key at all."""
    return torch.where(seen[:, None, :], added, torch.finfo(torch.float32).min)


def _attend(query: Tensor, cache: KVCache, slots: Tensor, mask: Tensor, scale: float) -> Tensor:
    heads = query.shape[1]
    if heads > _MAX_SPREAD_HEADS:
        return _attend_each_head(query, cache, slots, mask, scale)
    key, value = cache.key.flatten(1)[slots], cache.value.flatten(1)[slots]
    # Each head's query is placed in a separate row, with zeros for the other heads, so that two batched
    # products cover all heads. They multiply `heads` times as many numbers, most of them zeros, but take two
    # calls of oneDNN.
    apart = torch.eye(heads, dtype=query.dtype, device=query.device)
    spread = (query[:, None] * apart[None, :, :, None]).flatten(2)
    scores = torch.bmm(spread, key.transpose(1, 2)).float() * scale + mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    out = torch.bmm(weights, value).view(*query.shape[:1], heads, heads, -1)
    return out.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)


def _attend_each_head(query: Tensor, cache: KVCache, slots: Tensor, mask: Tensor, scale: float) -> Tensor:
    key, value = cache.key[slots], cache.value[slots]
    scores = (query[:, None] * key).float().sum(-1).transpose(1, 2) * scale + mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    return (weights.transpose(1, 2)[..., None] * value).sum(1).flatten(1)
