"""Cutting requests into batches, and writing a batch into its buffers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.encode import Limits, encode_output, encode_signature
from precast.runtime.packing import cut, fill
from precast.runtime.replay.direct import DirectReplay
from precast.runtime.tokenization import Tokens

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
    limits = Limits(max_length=12, max_tokens=80, max_batch=6)
    signature = encode_signature(limits, encode_output("embed", 4), token_types=True, prompt_lengths=True)
    replay = DirectReplay(signature, lambda inputs: [])
    for array in replay.buffers.arrays.values():
        array[:] = 99
    batch = [
        Tokens(
            np.arange(1, n + 1, dtype=np.int32),
            np.ones(n, dtype=np.int32) if typed else None,
            prompt_length=n - 1,
        )
        for n in lengths
    ]
    sizes = fill(replay, batch)
    found = {name: tensor.numpy() for name, tensor in replay.buffers.front(sizes).items()}
    signature.check(replay.buffers.front(sizes), sizes)
    tokens, spare = sum(lengths), sizes["tokens"] - sum(lengths)
    assert found["input_ids"].tolist() == [i for n in lengths for i in range(1, n + 1)] + [0] * spare
    assert found["token_type_ids"].tolist() == [int(typed)] * tokens + [0] * spare
    assert np.diff(found["cu_seqlens"]).tolist() == lengths + [0] * (sizes["sequences"] - len(lengths))
    assert found["key_positions"].tolist() == list(range(max(2, max(lengths))))
    assert found["prompt_lengths"].tolist()[: len(lengths)] == [n - 1 for n in lengths]
