"""The kernels of a decoder's step against plain torch, in Triton's interpreter: fp32 and fp16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precast.compiler.kernels.triton.decode_attention import (
    MOST_SPLITS,
    decode_attention_reference,
    decode_cross_attention,
    decode_self_attention,
    splits_for,
)

LONGEST = 150
SPLITS = st.sampled_from([1, 2, 8])


@dataclass(frozen=True)
class Drawn:
    """Rows of state, those of them that step, and kv_cache in which all that no row sees is NaN."""

    rows: Tensor
    lengths: Tensor
    slots: Tensor
    query: Tensor
    key_cache: Tensor
    value_cache: Tensor


@st.composite
def steps(draw: st.DrawFn, least: int) -> Drawn:
    """Keys of each row: ``least`` to ``LONGEST``; some rows share the slots of their first keys."""
    count = draw(st.integers(1, 20))
    lengths = draw(
        st.lists(
            st.integers(least, 40) | st.sampled_from((64, 65, 149, LONGEST)), min_size=count, max_size=count
        )
    )
    parents = [draw(st.integers(0, row)) for row in range(count)]
    rows = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([1, 16, 20, 64]))
    dtype = draw(st.sampled_from([torch.float32, torch.float16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    dealt = (torch.randperm(count * LONGEST, generator=generator) + 1).view(count, LONGEST)
    slots = dealt.clone()
    for row, parent in enumerate(parents):
        shared = min(lengths[row], lengths[parent]) - 1
        if shared > 0:
            slots[row, :shared] = slots[parent, :shared]
    kv_cache = torch.full((2, count * LONGEST + 1, heads, head_dim), torch.nan)
    for row, length in enumerate(lengths):
        size = (2, length, heads, head_dim)
        kv_cache[:, slots[row, :length]] = torch.randn(size, generator=generator)
    query = torch.randn(len(rows), heads, head_dim, generator=generator)
    key_cache, value_cache = kv_cache.to(dtype)
    return Drawn(
        torch.tensor(rows, dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32),
        slots.int(),
        query.to(dtype),
        key_cache,
        value_cache,
    )


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype
    tolerance = 1e-4 if found.dtype == torch.float32 else 5e-3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    drawn=steps(least=1),
    reach=st.sampled_from([None, 0, 3, 64]),
    splits=SPLITS,
    scale=st.sampled_from([1.0, 0.125]),
)
def test_self_attention_writes_its_token_and_sees_its_past(
    drawn: Drawn, reach: int | None, splits: int, scale: float
) -> None:
    heads = drawn.query.shape[1]
    bias = (
        None
        if reach is None
        else torch.randn(heads, 2 * reach + 1, generator=torch.Generator().manual_seed(0))
    )
    own = drawn.slots.gather(1, drawn.lengths[:, None].long() - 1)[:, 0][drawn.rows.long()].long()
    # A view of one projection, as the model gives it; the kv_cache have never seen the rows' own tokens.
    fused = torch.stack((drawn.query, drawn.key_cache[own], drawn.value_cache[own]), dim=1)
    query, key, value = fused.unbind(1)
    key_cache, value_cache = drawn.key_cache.clone(), drawn.value_cache.clone()
    key_cache[own] = value_cache[own] = torch.nan
    found = decode_self_attention(
        query,
        key,
        value,
        key_cache,
        value_cache,
        drawn.slots,
        drawn.rows,
        drawn.lengths - 1,
        bias,
        scale,
        splits,
    )
    expected = decode_attention_reference(
        drawn.query, drawn.key_cache, drawn.value_cache, drawn.slots, drawn.rows, drawn.lengths, bias, scale
    )
    assert_close(found, expected)
    torch.testing.assert_close(key_cache, drawn.key_cache, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(value_cache, drawn.value_cache, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(drawn=steps(least=0), splits=SPLITS, scale=st.sampled_from([1.0, 0.125]))
def test_cross_attention(drawn: Drawn, splits: int, scale: float) -> None:
    # Each row its own source, whose first place is no one else's.
    slots = drawn.slots.clone()
    key_cache, value_cache = drawn.key_cache.clone(), drawn.value_cache.clone()
    fresh = torch.arange(len(slots)) + len(key_cache)
    key_cache = torch.cat((key_cache, key_cache[slots[:, 0].long()]))
    value_cache = torch.cat((value_cache, value_cache[slots[:, 0].long()]))
    slots[:, 0] = fresh
    arguments = (drawn.query, key_cache, value_cache, slots, drawn.rows, drawn.lengths)
    found = decode_cross_attention(*arguments, scale, splits)
    assert_close(found, decode_attention_reference(*arguments, None, scale))


@settings(max_examples=40, deadline=None)
@given(
    beams=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    splits=SPLITS,
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_beams_of_a_request_share_their_source(
    beams: list[int], splits: int, dtype: torch.dtype, seed: int
) -> None:
    """Also over the edge of what one program takes, and where a row stands a second time at the end."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 90, (len(beams),), generator=generator)
    slots = torch.arange(len(beams) * 90, dtype=torch.int32).view(len(beams), 90)
    request = torch.repeat_interleave(torch.arange(len(beams)), torch.tensor(beams))
    kv_cache = torch.randn(2, len(beams) * 90, 2, 20, generator=generator).to(dtype)
    rows = torch.cat((torch.arange(len(request)), torch.tensor([0]))).int()
    query = torch.randn(len(rows), 2, 20, generator=generator).to(dtype)
    arguments = (query, kv_cache[0], kv_cache[1], slots[request], rows, lengths[request].int())
    found = decode_cross_attention(*arguments, 0.3, splits)
    assert_close(found, decode_attention_reference(*arguments, None, 0.3))


def test_a_row_that_stands_twice_gets_the_same_answer_twice() -> None:
    query = torch.randn(1, 2, 16).expand(3, -1, -1).contiguous()
    kv_cache = torch.randn(2, 50, 2, 16)
    slots, rows = torch.arange(1, 41, dtype=torch.int32)[None], torch.zeros(3, dtype=torch.int32)
    positions = torch.tensor([20], dtype=torch.int32)
    found = decode_self_attention(
        query, query, query, *kv_cache.clone(), slots, rows, positions, None, 1.0, 1
    )
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@given(rows=st.integers(1, 512), heads=st.integers(1, 64), longest=st.integers(1, 4096))
def test_parts_are_a_power_of_two_and_never_too_many(rows: int, heads: int, longest: int) -> None:
    splits = splits_for(rows, heads, longest)
    assert 1 <= splits <= MOST_SPLITS and splits & (splits - 1) == 0
    assert splits == 1 or ((splits - 1) * rows * heads < 264 and splits <= -(-longest // 64))


def good() -> dict[str, Any]:
    rows = torch.zeros(2, dtype=torch.int32)
    query, cache = torch.zeros(2, 2, 16), torch.zeros(9, 2, 16)
    return {
        "query": query,
        "key_cache": cache,
        "value_cache": cache.clone(),
        "slots": torch.ones(1, 8, dtype=torch.int32),
        "rows": rows,
        "lengths": torch.ones(1, dtype=torch.int32),
        "scale": 1.0,
        "splits": 1,
    }


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("query", torch.zeros(2, 2, 16, dtype=torch.float64), "share one of"),
        ("query", torch.zeros(2, 16, 2).transpose(1, 2), "side by side"),
        ("key_cache", torch.zeros(9, 3, 16), "do not fit"),
        ("key_cache", torch.zeros(9, 16, 2).transpose(1, 2), "contiguous"),
        ("rows", torch.zeros(2, dtype=torch.int64), "int32"),
        ("rows", torch.zeros(3, dtype=torch.int32), "a row for each query"),
    ],
)
def test_other_shapes_and_dtypes_are_refused(name: str, wrong: Tensor, message: str) -> None:
    decode_cross_attention(**good())
    with pytest.raises(ValueError, match=message):
        decode_cross_attention(**{**good(), name: wrong})
