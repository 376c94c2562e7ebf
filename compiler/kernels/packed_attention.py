"""Self-attention over a packed batch, in plain torch operators that a CPU backend fuses.

Packed rows are gathered to ``[B, heads, S]`` for the attention alone: everything else of a layer runs
without padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from precast.compiler.model.layout import PackedLayout

LONGEST_SCORES = 1024
"""Up to this length of an input the scores are written out: two batched matrix multiplications with a
fused softmax between them beat PyTorch's blocked CPU kernel at small head sizes. Beyond it the scores of
one input would fill the caches and then the memory."""


def attention_mask(visible: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The additive mask: ``bias`` (or zero) where a key is visible, the least finite number elsewhere.

    Finite, because a sequence of length zero sees no key at all, and a softmax over nothing but
    ``-inf`` is NaN.
    """
    shown = torch.zeros((), dtype=dtype, device=visible.device) if bias is None else bias.to(dtype)
    return torch.where(visible, shown, torch.finfo(dtype).min)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, mask: Tensor, scale: float
) -> Tensor:
    """``softmax(scale * Q K^T + mask) V`` within each sequence.

    Args:
        query: ``[T, heads, head_dim]``.
        key: ``[T, kv_heads, head_dim]``; each is shared by ``heads / kv_heads`` query heads.
        value: as ``key``.
        layout: of the batch.
        mask: from ``attention_mask``, broadcastable to ``[B, heads, S, S]``.
        scale: factor of the scores.

    Returns:
        ``[T, heads * head_dim]``.
    """
    heads = query.shape[1]
    q, k, v = (layout.padded_heads(tensor, heads) for tensor in (query, key, value))
    if layout.max_length > LONGEST_SCORES:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    else:
        scores = (q @ k.transpose(-1, -2)).float() * scale + mask.float()
        out = scores.softmax(dim=-1).to(v.dtype) @ v
    return layout.packed(out.transpose(1, 2).flatten(2))
