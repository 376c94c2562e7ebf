"""Ragged batches as the kernels see them, drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Lengths of the sequences, spare tokens behind them, and how far a token sees to either side."""

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
        """int32 ``[B]`` each: where every sequence begins and ends."""
        ends = torch.tensor(self.lengths).cumsum(0)
        return (ends - torch.tensor(self.lengths)).int(), ends.int()

    def visible(self) -> tuple[Tensor, Tensor]:
        """int32 ``[T]`` each: the keys every token sees; none for spare tokens."""
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
    """One call of packed attention."""

    batch: Batch
    head_dim: int
    kv_heads: int
    group: int
    reach: int | None
    scale: float
    dtype: torch.dtype
    seed: int

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, float]:
        """Views of one projection; rows of spare tokens are NaN, and so is what lies between the views."""
        generator = torch.Generator().manual_seed(self.seed)
        heads, tokens = self.kv_heads * self.group, self.batch.tokens
        sizes = [heads, self.kv_heads, self.kv_heads]
        fused = torch.randn(tokens, sum(sizes) + 1, self.head_dim, generator=generator)
        fused[self.batch.live :] = torch.nan
        fused[:, -1] = torch.nan
        query, key, value, _ = fused.to(self.dtype).split([*sizes, 1], dim=1)
        bias = None
        if self.reach is not None:
            bias = torch.randn(heads, 2 * self.reach + 1, generator=generator) * 2
        return query, key, value, *self.batch.visible(), bias, self.scale


def windows() -> st.SearchStrategy[tuple[int | None, int | None]]:
    """Bidirectional, causal, and sliding to one side or both."""
    sliding = st.tuples(st.integers(0, 40), st.integers(0, 40))
    return st.sampled_from([(None, None), (None, 0)]) | sliding | sliding.map(lambda sides: (sides[0], 0))


def lengths(longest: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Lengths of 1 to ``longest`` in all; empty sequences among them, and sizes on the edge of a tile."""
    one = st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128]) | st.integers(0, longest)
    return st.lists(one, min_size=1, max_size=most).map(tuple).filter(lambda drawn: 0 < sum(drawn) <= longest)


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
        reach=draw(st.none() | st.sampled_from([0, 1, 7, 31, 200])),
        scale=draw(st.sampled_from([1.0, 0.3, 0.05])),
        dtype=draw(st.sampled_from([torch.float32, torch.float16])),
        seed=draw(st.integers(0, 2**16)),
    )
