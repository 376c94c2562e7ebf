"""Packed attention: ragged lengths, windows, grouped heads and biases; unused tokens hold NaN."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from precast.compiler.kernels.triton import packed_attention as kernels
from precast.tools.gpucheck.cases.case import Case, Sizes, random_dtype, random_head_dim, random_lengths


def random_packed_attention(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    dtype = random_dtype(variant, device)
    group = int(variant.choice([1, 1, 2, 4]))
    head_dim = random_head_dim(variant, device)
    biased, strided = variant.random() < 0.4, bool(variant.random() < 0.5)
    lengths = random_lengths(random, sizes.tokens)
    spare = int(random.choice([0, 1, 7, 64]))
    kv_heads = int(random.integers(1, 4))
    window = [(None, None), (None, 0), (0, 0), (16, 16), (127, 0), (3, 40)][int(random.integers(6))]
    distance = int(random.choice([1, 24, 128])) if biased else None
    q, k, v = random_qkv(sum(lengths) + spare, kv_heads, group, head_dim, dtype, device)
    if not strided:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    begin, end = ranges(lengths, spare, window, device)
    # No token attends to spare tokens, so NaN in them must not matter.
    k[sum(lengths) :] = v[sum(lengths) :] = float("nan")
    heads = kv_heads * group
    bias = None if distance is None else torch.randn(heads, 2 * distance + 1, device=device) * 2
    scale = float(random.choice([1.0, head_dim**-0.5, 0.05]))
    what = (
        f"packed_attention {dtype} lengths {lengths} spare {spare} heads {heads}/{kv_heads}x{head_dim} "
        f"window {window} max distance {distance} scale {scale:.3f}"
    )

    wide_bias = None if bias is None else bias.double()

    def reference() -> Tensor:
        wide = q.double(), k.double(), v.double()
        return kernels.packed_attention_reference(wide[0], wide[1], wide[2], begin, end, wide_bias, scale)

    return Case(what, dtype, lambda: kernels.packed_attention(q, k, v, begin, end, bias, scale), reference)


def random_qkv(
    tokens: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value as views of one projection, as in a model."""
    split = [kv_heads * group, kv_heads, kv_heads]
    rows = torch.randn(tokens, sum(split), head_dim, device=device).to(dtype)
    q, k, v = rows.split(split, dim=1)
    return q, k, v


def ranges(
    lengths: list[int], spare: int, window: tuple[int | None, int | None], device: str
) -> tuple[Tensor, Tensor]:
    """Return the range of keys that each token attends to, empty for spare tokens."""
    begin, end = [], []
    start = 0
    for length in lengths:
        stop = start + length
        for token in range(start, stop):
            begin.append(start if window[0] is None else max(start, token - window[0]))
            end.append(stop if window[1] is None else min(stop, token + window[1] + 1))
        start = stop
    begin += [start] * spare
    end += [start] * spare
    return (
        torch.tensor(begin, dtype=torch.int32, device=device),
        torch.tensor(end, dtype=torch.int32, device=device),
    )
