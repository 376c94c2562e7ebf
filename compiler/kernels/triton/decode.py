"""Attention of a decode step in Triton, which reads keys and values in place from the KV cache."""

from __future__ import annotations

from torch import Tensor

from precast.compiler.kernels.triton.decode_attention import (
    decode_cross_attention,
    decode_self_attention,
    splits_for,
)
from precast.compiler.models.decode_ops import KVCache, StepState


class TritonDecodeOps:
    """Implements ``decode_ops.DecodeOps``.

    Args:
        state: of the step, without spans: lengths are read on the device.
        typical_num_seqs: the number of active sequences that the graph is tuned for; sets the number of
            splits.
    """

    def __init__(self, state: StepState, typical_num_seqs: int) -> None:
        self._state = state
        self._typical_num_seqs = typical_num_seqs

    def visible(self, bias: Tensor | None) -> Tensor | None:
        """The bias by distance, fp32."""
        return None if bias is None else bias.float().contiguous()

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Tensor | None, scale: float
    ) -> Tensor:
        state = self._state
        return decode_self_attention(
            query,
            key,
            value,
            cache.key,
            cache.value,
            state.kv_slots,
            state.seq_ids,
            state.positions,
            visible,
            scale,
            splits_for(self._typical_num_seqs, query.shape[1], state.kv_slots.shape[1]),
        )

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        state = self._state
        return decode_cross_attention(
            query,
            cache.key,
            cache.value,
            state.cross_slots,
            state.seq_ids,
            state.cross_lengths,
            scale,
            splits_for(self._typical_num_seqs, query.shape[1], state.cross_slots.shape[1]),
        )
