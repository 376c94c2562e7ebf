"""Packed operators in plain torch, compared with the same operators on each sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.compiler.kernels.torch.packed import LONGEST_SCORES, TorchPackedOps
from precast.compiler.models.packed_ops import PackedLayout
from precast.compiler.models.spec import Window

SIDES = st.one_of(st.none(), st.integers(0, 5))


def plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: Window, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return the attention within one sequence; ``k`` and ``v`` may have fewer heads than ``q``."""
    count, heads, _ = q.shape
    k, v = (tensor.repeat_interleave(heads // tensor.shape[1], dim=1) for tensor in (k, v))
    distance = torch.arange(count)[None, :] - torch.arange(count)[:, None]
    left, right = window
    hidden = torch.zeros(count, count, dtype=torch.bool)
    if left is not None:
        hidden |= distance < -left
    if right is not None:
        hidden |= distance > right
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale + bias
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


@pytest.mark.parametrize("max_length", [LONGEST_SCORES, LONGEST_SCORES + 1], ids=["scores", "blocked"])
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    spare=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1), (6, 6)]),
    size=st.sampled_from([1, 5, 16]),
    window=st.tuples(SIDES, SIDES),
    biased=st.booleans(),
    max_distance=st.integers(0, 12),
    seed=st.integers(0, 999),
)
def test_attention_equals_attention_within_each_sequence(
    max_length: int,
    lengths: list[int],
    spare: tuple[int, int, int],
    heads: tuple[int, int],
    size: int,
    window: Window,
    biased: bool,
    max_distance: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    spare_tokens, spare_sequences, longer = spare
    tokens, longest = sum(lengths) + spare_tokens, max(lengths) + longer
    q, k, v = (torch.randn(tokens, h, size) for h in (heads[0], heads[1], heads[1]))
    ends = torch.tensor([0, *lengths, *[0] * spare_sequences]).cumsum(0).int()
    layout = PackedLayout(tokens, ends)
    ops = TorchPackedOps(layout, torch.arange(longest, dtype=torch.int32), q.dtype, max_length)
    table = torch.randn(heads[0], 2 * max_distance + 1)
    visible = ops.visible(window, table if biased else None)
    output = ops.attention(q, k, v, visible, size**-0.5)
    assert torch.isfinite(output).all()
    start = 0
    for n in lengths:
        part = slice(start, start + n)
        distance = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        bias = table[:, distance.clamp(-max_distance, max_distance) + max_distance] * biased
        expected = plain(q[part], k[part], v[part], window, bias, size**-0.5)
        torch.testing.assert_close(output[part], expected, atol=1e-5, rtol=1e-5)
        start += n


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    spare=st.integers(0, 3),
    skip=st.integers(0, 3),
    weighted=st.booleans(),
    seed=st.integers(0, 999),
)
def test_sums_and_maxima(lengths: list[int], spare: int, skip: int, weighted: bool, seed: int) -> None:
    torch.manual_seed(seed)
    tokens = sum(lengths) + spare
    rows, weight = torch.randn(tokens, 4), torch.rand(tokens)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    layout = PackedLayout(tokens, ends)
    ops = TorchPackedOps(layout, torch.arange(max(lengths), dtype=torch.int32), rows.dtype, 16)
    begin = layout.starts + skip
    total = ops.segment_sum(rows, begin, weight if weighted else None)
    largest = ops.segment_max(rows, begin)
    assert torch.isfinite(total).all() and torch.isfinite(largest).all()
    for index, (start, n) in enumerate(zip(layout.starts.tolist(), lengths, strict=True)):
        part = slice(min(start + skip, start + n), start + n)
        factor = weight[part, None] if weighted else 1.0
        torch.testing.assert_close(total[index], (rows[part] * factor).sum(0))
        if skip < n:
            assert torch.equal(largest[index], rows[part].amax(0))
