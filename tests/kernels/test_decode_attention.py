"""Triton kernels of a decode step against plain torch, in Triton's interpreter: fp32 and fp16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precast.compiler.kernels.triton.decode_attention import (
    MAX_SPLITS,
    decode_attention_reference,
    decode_cross_attention,
    decode_self_attention,
    splits_for,
)

LONGEST = 150
SPLITS = st.sampled_from([1, 2, 8])


@dataclass(frozen=True)
class Step:
    """State of all sequences, the active ones, and a KV cache that is NaN in slots that no sequence sees."""

    seq_ids: Tensor
    lengths: Tensor
    slots: Tensor
    query: Tensor
    key_cache: Tensor
    value_cache: Tensor


@st.composite
def steps(draw: st.DrawFn, least: int) -> Step:
    """Steps with ``least`` to ``LONGEST`` keys a sequence; some sequences share slots of their first keys."""
    count = draw(st.integers(1, 20))
    lengths = draw(
        st.lists(
            st.integers(least, 40) | st.sampled_from((64, 65, 149, LONGEST)), min_size=count, max_size=count
        )
    )
    parents = [draw(st.integers(0, seq_id)) for seq_id in range(count)]
    seq_ids = draw(st.permutations(range(count)))[: draw(st.integers(1, count))]
    heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([1, 16, 20, 64]))
    dtype = draw(st.sampled_from([torch.float32, torch.float16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    slots = (torch.randperm(count * LONGEST, generator=generator) + 1).view(count, LONGEST)
    for seq_id, parent in enumerate(parents):
        shared = min(lengths[seq_id], lengths[parent]) - 1
        if shared > 0:
            slots[seq_id, :shared] = slots[parent, :shared]
    kv_cache = torch.full((2, count * LONGEST + 1, heads, head_dim), torch.nan)
    for seq_id, length in enumerate(lengths):
        size = (2, length, heads, head_dim)
        kv_cache[:, slots[seq_id, :length]] = torch.randn(size, generator=generator)
    query = torch.randn(len(seq_ids), heads, head_dim, generator=generator)
    key_cache, value_cache = kv_cache.to(dtype)
    return Step(
        torch.tensor(seq_ids, dtype=torch.int32),
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
    case=steps(least=1),
    max_distance=st.sampled_from([None, 0, 3, 64]),
    splits=SPLITS,
    scale=st.sampled_from([1.0, 0.125]),
)
def test_self_attention_writes_its_token_and_sees_its_past(
    case: Step, max_distance: int | None, splits: int, scale: float
) -> None:
    heads = case.query.shape[1]
    bias = (
        None
        if max_distance is None
        else torch.randn(heads, 2 * max_distance + 1, generator=torch.Generator().manual_seed(0))
    )
    own = case.slots.gather(1, case.lengths[:, None].long() - 1)[:, 0][case.seq_ids.long()].long()
    # Views of one projection, as in the model; the KV cache does not hold the new tokens yet.
    fused = torch.stack((case.query, case.key_cache[own], case.value_cache[own]), dim=1)
    query, key, value = fused.unbind(1)
    key_cache, value_cache = case.key_cache.clone(), case.value_cache.clone()
    key_cache[own] = value_cache[own] = torch.nan
    found = decode_self_attention(
        query,
        key,
        value,
        key_cache,
        value_cache,
        case.slots,
        case.seq_ids,
        case.lengths - 1,
        bias,
        scale,
        splits,
    )
    expected = decode_attention_reference(
        case.query, case.key_cache, case.value_cache, case.slots, case.seq_ids, case.lengths, bias, scale
    )
    assert_close(found, expected)
    torch.testing.assert_close(key_cache, case.key_cache, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(value_cache, case.value_cache, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(case=steps(least=0), splits=SPLITS, scale=st.sampled_from([1.0, 0.125]))
def test_cross_attention(case: Step, splits: int, scale: float) -> None:
    # Each sequence has its own source, with a first slot that no other sequence shares.
    slots = case.slots.clone()
    key_cache, value_cache = case.key_cache.clone(), case.value_cache.clone()
    fresh = torch.arange(len(slots)) + len(key_cache)
    key_cache = torch.cat((key_cache, key_cache[slots[:, 0].long()]))
    value_cache = torch.cat((value_cache, value_cache[slots[:, 0].long()]))
    slots[:, 0] = fresh
    arguments = (case.query, key_cache, value_cache, slots, case.seq_ids, case.lengths)
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
    """Also with more beams than one program computes, and with a repeated sequence at the end."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 90, (len(beams),), generator=generator)
    slots = torch.arange(len(beams) * 90, dtype=torch.int32).view(len(beams), 90)
    request = torch.repeat_interleave(torch.arange(len(beams)), torch.tensor(beams))
    kv_cache = torch.randn(2, len(beams) * 90, 2, 20, generator=generator).to(dtype)
    seq_ids = torch.cat((torch.arange(len(request)), torch.tensor([0]))).int()
    query = torch.randn(len(seq_ids), 2, 20, generator=generator).to(dtype)
    arguments = (query, kv_cache[0], kv_cache[1], slots[request], seq_ids, lengths[request].int())
    found = decode_cross_attention(*arguments, 0.3, splits)
    assert_close(found, decode_attention_reference(*arguments, None, 0.3))


def test_a_repeated_sequence_gets_the_same_output() -> None:
    query = torch.randn(1, 2, 16).expand(3, -1, -1).contiguous()
    kv_cache = torch.randn(2, 50, 2, 16)
    slots, seq_ids = torch.arange(1, 41, dtype=torch.int32)[None], torch.zeros(3, dtype=torch.int32)
    positions = torch.tensor([20], dtype=torch.int32)
    found = decode_self_attention(
        query, query, query, *kv_cache.clone(), slots, seq_ids, positions, None, 1.0, 1
    )
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@given(num_seqs=st.integers(1, 512), heads=st.integers(1, 64), longest=st.integers(1, 4096))
def test_parts_are_a_power_of_two_and_never_too_many(num_seqs: int, heads: int, longest: int) -> None:
    splits = splits_for(num_seqs, heads, longest)
    assert 1 <= splits <= MAX_SPLITS and splits & (splits - 1) == 0
    assert splits == 1 or ((splits - 1) * num_seqs * heads < 264 and splits <= -(-longest // 64))


def good() -> dict[str, Any]:
    query, cache = torch.zeros(2, 2, 16), torch.zeros(9, 2, 16)
    return {
        "query": query,
        "key_cache": cache,
        "value_cache": cache.clone(),
        "slots": torch.ones(1, 8, dtype=torch.int32),
        "seq_ids": torch.zeros(2, dtype=torch.int32),
        "lengths": torch.ones(1, dtype=torch.int32),
        "scale": 1.0,
        "splits": 1,
    }


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("query", torch.zeros(2, 2, 16, dtype=torch.float64), "share one of"),
        ("query", torch.zeros(2, 16, 2).transpose(1, 2), "heads of a sequence must be contiguous"),
        ("key_cache", torch.zeros(9, 3, 16), "do not match"),
        ("key_cache", torch.zeros(9, 16, 2).transpose(1, 2), "contiguous"),
        ("seq_ids", torch.zeros(2, dtype=torch.int64), "int32"),
        ("seq_ids", torch.zeros(3, dtype=torch.int32), "one id for each query"),
    ],
)
def test_other_shapes_and_dtypes_are_rejected(name: str, wrong: Tensor, message: str) -> None:
    decode_cross_attention(**good())
    with pytest.raises(ValueError, match=message):
        decode_cross_attention(**{**good(), name: wrong})
