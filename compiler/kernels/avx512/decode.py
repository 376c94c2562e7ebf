"""Attention of a decode step that reads keys and values in place from the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import NUMBERS, Kernel, Operand, pointer
from precast.compiler.models.decode_ops import KVCache, StepState


@custom_op("precast::decode_attention", mutates_args=())
def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    seq_ids: Tensor,
    counts: Tensor,
    bias: Tensor | None,
    more: int,
    scale: float,
) -> Tensor:
    """``softmax(scale * q K^T + bias) V`` of each active sequence over the keys at its slots.

    Args:
        query: ``[R, heads, head_dim]``, fp32 or bf16; any stride between sequences.
        keys: ``[slots, heads, head_dim]``, the keys of one layer in the KV cache.
        values: like ``keys``.
        slots: int32 ``[N, longest]``, the slots of each sequence's keys.
        seq_ids: int32 ``[R]``, the active ones of the ``N`` sequences; may end in repetitions of one sequence
            with the same query, as padding.
        counts: int32 ``[N]``; a sequence sees ``counts + more`` keys.
        bias: fp32 ``[heads, 2 * max_distance + 1]`` by the distance from position ``counts`` to the key, or
            None.
        more: 1 if ``counts`` is the position of a visible key, 0 if it is the number of keys.
        scale: factor of the scores.

    Returns:
        ``[R, heads * head_dim]``; zeros if no key is visible.
    """
    out = torch.zeros(query.shape[0], query.shape[1] * query.shape[2], dtype=query.dtype)
    for index, seq_id in enumerate(seq_ids.tolist()):
        position = int(counts[seq_id])
        visible = slots[seq_id, : position + more].long()
        if len(visible):
            scores = torch.einsum("hd,khd->hk", query[index].float(), keys[visible].float()) * scale
            if bias is not None:
                max_distance = bias.shape[1] // 2
                distance = torch.arange(len(visible)) - position
                scores = scores + bias[:, distance.clamp(-max_distance, max_distance) + max_distance]
            out[index] = torch.einsum("hk,khd->hd", scores.softmax(-1), values[visible].float()).flatten()
    return out


@decode_attention.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty((query.shape[0], query.shape[1] * query.shape[2]))


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    query, slots, bias, out = (tensors[name] for name in ("query", "slots", "bias", "out"))
    assert query is not None and slots is not None and out is not None
    tables = ", ".join(pointer(tensors[name]) for name in ("slots", "seq_ids", "counts", "bias"))
    max_distance = "0" if bias is None else f"({bias.sizes[1]} - 1) / 2"
    sizes = ", ".join(
        [
            *query.sizes,
            query.strides[0],
            slots.sizes[1],
            str(arguments["more"]),
            max_distance,
            f"{arguments['scale']!r}f",
        ]
    )
    return (
        f"precast::decode_attention<{NUMBERS[query.dtype]}>({query.at}, "
        f"{{{pointer(tensors['keys'])}, {pointer(tensors['values'])}}}, {tables}, {out.at}, {{{sizes}}});"
    )


DECODE_ATTENTION = Kernel(
    torch.ops.precast.decode_attention.default, "decode_attention.h", {"query": 2}, _call
)


class Avx512DecodeOps:
    """Implements ``decode_ops.DecodeOps``.

    Args:
        state: of the step; its spans are not used.
    """

    def __init__(self, state: StepState) -> None:
        self._state = state
        seq_ids = state.seq_ids.long()
        self._new_slots = state.kv_slots[seq_ids, state.positions[seq_ids].long()].long()

    def visible(self, bias: Tensor | None) -> Tensor | None:
        """The bias by distance, fp32."""
        return None if bias is None else bias.float().contiguous()

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Tensor | None, scale: float
    ) -> Tensor:
        cache.key.index_put_((self._new_slots,), key)
        cache.value.index_put_((self._new_slots,), value)
        state = self._state
        out: Tensor = decode_attention(
            query, cache.key, cache.value, state.kv_slots, state.seq_ids, state.positions, visible, 1, scale
        )
        return out

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        state = self._state
        out: Tensor = decode_attention(
            query,
            cache.key,
            cache.value,
            state.cross_slots,
            state.seq_ids,
            state.cross_lengths,
            None,
            0,
            scale,
        )
        return out
