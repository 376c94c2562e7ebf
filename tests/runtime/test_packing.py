"""Cutting requests into batches, and writing a batch into its buffers."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.encode import EncodeLimits, encode_output, encode_signature
from precast.runtime.cpu.replay import DirectReplay
from precast.runtime.cuda.layout import Layout
from precast.runtime.encoder.packing import cut, fill, fill_example
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import HostBuffers

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 120), max_batch=st.integers(1, 8))
def test_every_request_is_in_one_batch_within_both_budgets(
    lengths: list[int], max_tokens: int, max_batch: int
) -> None:
    batches = cut(lengths, max_tokens, max_batch)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= max_batch
        assert len(batch) == 1 or sum(lengths[place] for place in batch) <= max_tokens


@given(lengths=LENGTHS, max_tokens=st.integers(50, 200))
def test_batches_ascend_in_length(lengths: list[int], max_tokens: int) -> None:
    flat = [lengths[place] for batch in cut(lengths, max_tokens, 100) for place in batch]
    assert flat == sorted(flat)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), typed=st.booleans())
def test_a_batch_is_written_whole_over_whatever_was_there(lengths: list[int], typed: bool) -> None:
    limits = EncodeLimits(max_length=12, max_tokens=80, max_batch=6)
    signature = encode_signature(
        limits, encode_output("embed", 4), device="cpu", token_types=True, prompt_lengths=True
    )
    replay = DirectReplay(signature, lambda inputs: [])
    largest = {axis.name: axis.maximum for axis in signature.axes}
    for array in replay.buffers_for(largest).arrays.values():
        array[:] = 99
    batch = [
        Tokens(
            np.arange(1, n + 1, dtype=np.int32),
            np.ones(n, dtype=np.int32) if typed else None,
            prompt_length=n - 1,
        )
        for n in lengths
    ]
    buffers = fill(replay, batch)
    found, sizes = buffers.arrays, buffers.sizes
    signature.check({name: torch.from_numpy(array) for name, array in found.items()}, sizes)
    tokens, spare = sum(lengths), sizes["tokens"] - sum(lengths)
    assert found["input_ids"].tolist() == [i for n in lengths for i in range(1, n + 1)] + [0] * spare
    assert found["token_type_ids"].tolist() == [int(typed)] * tokens + [0] * spare
    assert np.diff(found["cu_seqlens"]).tolist() == lengths + [0] * (sizes["sequences"] - len(lengths))
    assert found["key_positions"].tolist() == list(range(max(2, max(lengths))))
    assert found["prompt_lengths"].tolist()[: len(lengths)] == [n - 1 for n in lengths]


@given(
    tokens=st.integers(2, 80), sequences=st.integers(2, 6), max_length=st.integers(1, 40), typed=st.booleans()
)
def test_an_example_fills_the_buffers(tokens: int, sequences: int, max_length: int, typed: bool) -> None:
    limits = EncodeLimits(max_length=max_length, max_tokens=80, max_batch=6)
    signature = encode_signature(
        limits, encode_output("embed", 4), device="cuda", token_types=typed, prompt_lengths=typed
    )
    sizes = {"tokens": tokens, "sequences": sequences}
    block = torch.full((4096,), 99, dtype=torch.uint8)
    arrays = Layout.of(signature.inputs, sizes).arrays(block)
    fill_example(HostBuffers(sizes, arrays), max_length)
    lengths = np.diff(arrays.pop("cu_seqlens"))
    assert lengths.sum() == min(tokens, sequences * max_length) and lengths.max() <= max_length
    assert not any(array.any() for array in arrays.values())


@given(sizes=st.fixed_dictionaries({"tokens": st.integers(2, 5000), "sequences": st.integers(2, 600)}))
def test_buffers_lie_aligned_and_apart(sizes: dict[str, int]) -> None:
    limits = EncodeLimits(max_length=512, max_tokens=5000, max_batch=600)
    signature = encode_signature(
        limits, encode_output("embed", 4), device="cuda", token_types=True, prompt_lengths=True
    )
    layout = Layout.of(signature.inputs, sizes)
    fields = layout.fields
    assert [field.name for field in fields] == [buffer.name for buffer in signature.inputs]
    assert all(field.offset % 256 == 0 for field in fields)
    ends = [field.offset + field.nbytes for field in fields]
    assert all(end <= after.offset for end, after in zip(ends, fields[1:], strict=False))
    assert ends[-1] == layout.nbytes
    signature.check(layout.tensors(torch.zeros(layout.nbytes, dtype=torch.uint8)), sizes)
