"""Decode attention: sequences of ragged lengths over scattered slots; slots that none attends to hold NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precast.compiler.kernels.triton import decode_attention as kernels
from precast.tools.gpucheck.cases.case import Case, Sizes, random_dtype, random_head_dim, random_lengths

MAX_BEAMS = 20
"""More beams than one program of the kernel handles."""


@dataclass(frozen=True)
class RandomStep:
    """Inputs of a step: ``rows`` ``[R]`` are the active sequences; ``slots`` and ``lengths`` are for all."""

    rows: Tensor
    lengths: Tensor
    slots: Tensor
    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    scale: float
    splits: int
    what: str

    @property
    def own(self) -> Tensor:
        """The slots of the last token of each active sequence."""
        last = self.lengths[self.rows.long()].long() - 1
        return self.slots[self.rows.long()].gather(1, last[:, None])[:, 0].long()

    def expected(self, bias: Tensor | None) -> Tensor:
        """Return the reference output in fp64."""
        return kernels.decode_attention_reference(
            self.query.double(), self.key_cache.double(), self.value_cache.double(), self.slots, self.rows,
            self.lengths, bias, self.scale,
        )  # fmt: skip


def random_step(
    variant: np.random.Generator,
    random: np.random.Generator,
    device: str,
    lengths: list[int],
    request: list[int],
) -> RandomStep:
    """Return the inputs of a step.

    Args:
        variant: generator of what determines the compiled kernel.
        random: generator of everything else.
        device: device of the tensors.
        lengths: number of tokens of each request.
        request: request of each sequence; sequences of one request share all slots.
    """
    dtype, heads, head_dim = (
        random_dtype(variant, device),
        int(variant.integers(1, 5)),
        random_head_dim(variant, device),
    )
    splits, longest = int(variant.choice([1, 2, 4, 16])), max(*lengths, 1) + 5
    count = max(request) + 1
    dealt = torch.from_numpy(random.permutation(count * longest)).view(count, longest)
    slots, sizes = dealt[request], torch.tensor([lengths[one] for one in request])
    kv_cache = torch.full((2, count * longest, heads, head_dim), torch.nan)
    for at, length in zip(dealt, lengths, strict=True):
        kv_cache[:, at[:length]] = torch.randn(2, length, heads, head_dim)
    rows = torch.arange(len(request))[: int(random.integers(1, len(request) + 1))]
    key_cache, value_cache = kv_cache.to(device, dtype)
    scale = float(random.choice([1.0, head_dim**-0.5]))
    return RandomStep(
        rows.int().to(device),
        sizes.int().to(device),
        slots.int().to(device),
        torch.randn(len(rows), heads, head_dim, device=device).to(dtype),
        key_cache,
        value_cache,
        scale,
        splits,
        f"{dtype} lengths {lengths} of {request} rows {len(rows)} heads {heads}x{head_dim} splits {splits} "
        f"scale {scale:.3f}",
    )


def random_self_attention(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    """Return a self-attention case, which compares the output and the keys and values written to the cache.

    The output is NaN if the kernel writes to any other slot.
    """
    lengths = [max(1, length) for length in random_lengths(random, sizes.tokens)]
    step = random_step(variant, random, device, lengths, list(range(len(lengths))))
    distance = [None, 0, 3, 64, 128][int(random.integers(5))]
    heads = step.query.shape[1]
    bias = None if distance is None else torch.randn(heads, 2 * distance + 1, device=device)
    own, kv_cache = step.own, (step.key_cache.clone(), step.value_cache.clone())
    fused = torch.stack((step.query, kv_cache[0][own], kv_cache[1][own]), dim=1)

    def call() -> Tensor:
        for cache in kv_cache:
            cache[own] = torch.nan
        found = kernels.decode_self_attention(
            *fused.unbind(1),
            *kv_cache,
            step.slots,
            step.rows,
            step.lengths - 1,
            bias,
            step.scale,
            step.splits,
        )
        same = torch.equal(
            torch.stack(kv_cache).isnan(), torch.stack((step.key_cache, step.value_cache)).isnan()
        )
        written = torch.cat((found.flatten(), kv_cache[0][own].flatten(), kv_cache[1][own].flatten()))
        return written if same else written * torch.nan

    def reference() -> Tensor:
        wide = None if bias is None else bias.double()
        found, keys, values = step.expected(wide), step.key_cache[own], step.value_cache[own]
        return torch.cat((found.flatten(), keys.double().flatten(), values.double().flatten()))

    return Case(
        f"decode_self_attention {step.what} max distance {distance}", step.query.dtype, call, reference
    )


def random_cross_attention(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    """Return a cross-attention case, in which adjacent sequences share sources, some of them empty."""
    lengths = random_lengths(random, sizes.tokens)
    request = [one for one in range(len(lengths)) for _ in range(int(random.choice([1, 2, 4, MAX_BEAMS])))]
    step = random_step(variant, random, device, lengths, request)

    def call() -> Tensor:
        return kernels.decode_cross_attention(
            step.query, step.key_cache, step.value_cache, step.slots, step.rows, step.lengths, step.scale,
            step.splits,
        )  # fmt: skip

    return Case(f"decode_cross_attention {step.what}", step.query.dtype, call, lambda: step.expected(None))
