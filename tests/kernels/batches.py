"""Hypothesis strategies for ragged batches and calls of packed attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Lengths of the sequences, spare tokens after them, and the window of a token."""

    lengths: tuple[int, ...]
    spare: int
    left: int | None
    right: int | None

    @property
    def live(self) -> int:
        return sum(self.lengths)

    @property
    def tokens(self) -> int:
        return self.live + self.spare

    def segments(self) -> tuple[Tensor, Tensor]:
        """The begin and end of every sequence, int32 ``[B]`` each."""
        ends = torch.tensor(self.lengths).cumsum(0)
        return (ends - torch.tensor(self.lengths)).int(), ends.int()

    def visible(self) -> tuple[Tensor, Tensor]:
        """The range of visible keys of every token, int32 ``[T]`` each; empty for spare tokens."""
        begin, end = [], []
        first = 0
        for length in self.lengths:
            last = first + length
            for token in range(first, last):
                begin.append(first if self.left is None else max(first, token - self.left))
                end.append(last if self.right is None else min(last, token + self.right + 1))
            first = last
        begin += [self.live] * self.spare
        end += [self.live] * self.spare
        return torch.tensor(begin, dtype=torch.int32), torch.tensor(end, dtype=torch.int32)


@dataclass(frozen=True)
class Attention:
    """The arguments of one call of packed attention."""

    batch: Batch
    head_dim: int
    kv_heads: int
    group: int
    max_distance: int | None
    scale: float
    dtype: torch.dtype
    seed: int

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, float]:
        """Views of one projection; rows of spare tokens and the memory between the views are NaN."""
        generator = torch.Generator().manual_seed(self.seed)
        heads, tokens = self.kv_heads * self.group, self.batch.tokens
        sizes = [heads, self.kv_heads, self.kv_heads]
        fused = torch.randn(tokens, sum(sizes) + 1, self.head_dim, generator=generator)
        fused[self.batch.live :] = torch.nan
        fused[:, -1] = torch.nan
        query, key, value, _ = fused.to(self.dtype).split([*sizes, 1], dim=1)
        bias = None
        if self.max_distance is not None:
            bias = torch.randn(heads, 2 * self.max_distance + 1, generator=generator) * 2
        return query, key, value, *self.batch.visible(), bias, self.scale


def windows() -> st.SearchStrategy[tuple[int | None, int | None]]:
    """Bidirectional, causal, and sliding windows to one side or both."""
    sliding = st.tuples(st.integers(0, 40), st.integers(0, 40))
    return st.sampled_from([(None, None), (None, 0)]) | sliding | sliding.map(lambda sides: (sides[0], 0))


def lengths(longest: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Lengths with a sum of 1 to ``longest``, including empty sequences and sizes at the edges of tiles."""
    length = st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128]) | st.integers(0, longest)
    ragged = st.lists(length, min_size=1, max_size=most).map(tuple)
    return ragged.filter(lambda sizes: 0 < sum(sizes) <= longest)


@st.composite
def batches(draw: st.DrawFn, longest: int = 150, most: int = 5) -> Batch:
    left, right = draw(windows())
    return Batch(draw(lengths(longest, most)), draw(st.sampled_from([0, 0, 1, 20, 70])), left, right)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    return Attention(
        batch=draw(batches()),
        head_dim=draw(st.sampled_from([1, 5, 16, 20, 32, 48, 64, 80])),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.integers(1, 2)),
        max_distance=draw(st.none() | st.sampled_from([0, 1, 7, 31, 200])),
        scale=draw(st.sampled_from([1.0, 0.3, 0.05])),
        dtype=draw(st.sampled_from([torch.float32, torch.float16])),
        seed=draw(st.integers(0, 2**16)),
    )
