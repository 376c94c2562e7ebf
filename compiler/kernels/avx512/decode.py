"""Attention of a decoder's step over keys and values where they lie in the kv_cache."""

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
    rows: Tensor,
    counts: Tensor,
    bias: Tensor | None,
    more: int,
    scale: float,
) -> Tensor:
    """``softmax(scale * q K^T + bias) V`` of each row over the keys at its slots.

    Args:
        query: ``[R, heads, head_dim]``, fp32 or bf16; rows may have any stride.
        keys: ``[cache, heads, head_dim]``.
        values: as ``keys``.
        slots: int32 ``[N, longest]``, where in the kv_cache each row's keys lie.
        rows: int32 ``[R]``, which of the ``N`` rows; one that stands at the end again has the same query.
        counts: int32 ``[N]``; a row sees ``counts + more`` keys.
        bias: fp32 ``[heads, 2 * reach + 1]`` by the distance from position ``counts`` to the key, or None.
        more: 1 where ``counts`` is the position of a key that is seen too, otherwise 0.
        scale: of the scores.

    Returns:
        ``[R, heads * head_dim]``; zeros where no key is seen.
    """
    found = torch.zeros(query.shape[0], query.shape[1] * query.shape[2], dtype=query.dtype)
    for at, row in enumerate(rows.tolist()):
        position = int(counts[row])
        seen = slots[row, : position + more].long()
        if len(seen):
            scores = torch.einsum("hd,khd->hk", query[at].float(), keys[seen].float()) * scale
            if bias is not None:
                reach = bias.shape[1] // 2
                distance = torch.arange(len(seen)) - position
                scores = scores + bias[:, distance.clamp(-reach, reach) + reach]
            found[at] = torch.einsum("hk,khd->hd", scores.softmax(-1), values[seen].float()).flatten()
    return found


@decode_attention.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty((query.shape[0], query.shape[1] * query.shape[2]))


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    query, slots, bias, out = (tensors[name] for name in ("query", "slots", "bias", "out"))
    assert query is not None and slots is not None and out is not None
    tables = ", ".join(pointer(tensors[name]) for name in ("slots", "rows", "counts", "bias"))
    reach = "0" if bias is None else f"({bias.sizes[1]} - 1) / 2"
    sizes = ", ".join(
        [
            *query.sizes,
            query.strides[0],
            slots.sizes[1],
            str(arguments["more"]),
            reach,
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


class StepOps:
    """Implements ``model.decode_ops.DecodeOps``.

    Args:
        state: of the step; its spans are not needed.
    """

    def __init__(self, state: StepState) -> None:
        self._state = state
        rows = state.rows.long()
        self._at = state.kv_slots[rows, state.positions[rows].long()].long()

    def visible(self, bias: Tensor | None) -> Tensor | None:
        """The bias by distance, fp32."""
        return None if bias is None else bias.float().contiguous()

    def self_attention(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, visible: Tensor | None, scale: float
    ) -> Tensor:
        cache.key.index_put_((self._at,), key)
        cache.value.index_put_((self._at,), value)
        state = self._state
        found: Tensor = decode_attention(
            query, cache.key, cache.value, state.kv_slots, state.rows, state.positions, visible, 1, scale
        )
        return found

    def cross_attention(self, query: Tensor, cache: KVCache, scale: float) -> Tensor:
        state = self._state
        found: Tensor = decode_attention(
            query, cache.key, cache.value, state.cross_slots, state.rows, state.cross_lengths, None, 0, scale
        )
        return found
