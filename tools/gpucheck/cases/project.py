"""The projection of keys and values into the KV cache; all other slots hold NaN."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from precast.compiler.kernels.triton import cross_kv as kernels
from precast.tools.gpucheck.cases.case import Case, Sizes, random_dtype, random_head_dim


def random_cross_kv(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    """Return a case that compares the written slots; the output is NaN if other slots are written."""
    dtype, head_dim = random_dtype(variant, device), random_head_dim(variant, device)
    heads, inner = int(variant.integers(1, 5)), int(variant.choice((1, 64, 127, 512)))
    tokens, width = int(random.integers(1, sizes.tokens + 1)), heads * head_dim
    hidden = torch.randn(tokens, inner, device=device).to(dtype)
    weight = (torch.randn(2 * width, inner, device=device) / inner**0.5).to(dtype)
    bias = torch.randn(2 * width, device=device).to(dtype) if random.random() < 0.5 else None
    slots = torch.from_numpy(random.permutation(tokens + 7)[:tokens]).int().to(device)
    kv_cache = torch.full((2, tokens + 7, heads, head_dim), torch.nan, device=device)

    def call() -> Tensor:
        key_cache, value_cache = kv_cache.to(dtype)
        kernels.project_cross_kv(hidden, weight, bias, key_cache, value_cache, slots)
        both, at = torch.stack((key_cache, value_cache)), slots.long()
        found = both[:, at]
        both[:, at] = torch.nan
        return found if bool(both.isnan().all()) else found * torch.nan

    def reference() -> Tensor:
        key_cache, value_cache = kv_cache.double()
        wide = None if bias is None else bias.double()
        kernels.project_reference(hidden.double(), weight.double(), wide, key_cache, value_cache, slots)
        return torch.stack((key_cache, value_cache))[:, slots.long()]

    what = f"{dtype} {tokens} tokens {inner} to {heads}x{head_dim} biased {bias is not None}"
    return Case(f"project_cross_kv {what}", dtype, call, reference)
