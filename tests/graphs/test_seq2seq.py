"""The signatures of ``encode_source`` and ``decode``."""

from __future__ import annotations

import pytest

from precast.graphs.errors import LimitsError
from precast.graphs.seq2seq import (
    MAX_SLOTS,
    GenerateLimits,
    KVCacheShape,
    decode_signature,
    encode_source_signature,
)

LIMITS = GenerateLimits(max_source_length=8, max_target_length=12, max_tokens=32, max_batch=4, max_num_seqs=6)
SLOT = KVCacheShape(layers=2, heads=3, head_dim=5, dtype="bfloat16")


def test_encode_source_writes_the_cross_attention_cache() -> None:
    signature = encode_source_signature(LIMITS, SLOT, 16, device="cpu")
    names = ["cross_key_0", "cross_value_0", "cross_key_1", "cross_value_1"]
    assert [buffer.name for buffer in signature.inputs][-4:] == names == list(signature.written)
    sizes = {"tokens": 9, "sequences": 3, "length": 4, "cross_cache": 50}
    shapes = {buffer.name: buffer.sizes(sizes) for buffer in signature.inputs}
    assert shapes["cross_slots"] == (9,) and shapes["cross_key_1"] == (50, 3, 5)
    assert signature.outputs[0].sizes(sizes) == (9, 16)


def test_decode_reads_both_caches_and_writes_self_attention() -> None:
    signature = decode_signature(LIMITS, SLOT, SLOT, 47, device="cpu")
    assert signature.written == ("self_key_0", "self_value_0", "self_key_1", "self_value_1")
    sizes = {"num_seqs": 2, "self_cache": 7, "cross_cache": 9, "self_length": 3, "source_length": 4}
    shapes = {buffer.name: buffer.sizes(sizes) for buffer in signature.inputs}
    assert shapes["seq_ids"] == (2,) and shapes["tokens"] == (6,) and shapes["kv_slots"] == (6, 12)
    assert shapes["cross_slots"] == (6, 8) and shapes["self_value_0"] == (7, 3, 5)
    assert signature.outputs[0].sizes(sizes) == (2, 47)


def test_on_cuda_no_size_says_how_far_to_read() -> None:
    encode_source = encode_source_signature(LIMITS, SLOT, 16, device="cuda")
    decode = decode_signature(LIMITS, SLOT, SLOT, 47, device="cuda")
    assert [axis.name for axis in encode_source.axes] == ["tokens", "sequences", "cross_cache"]
    assert [axis.name for axis in decode.axes] == ["num_seqs", "self_cache", "cross_cache"]


@pytest.mark.parametrize(
    "values", [(0, 1, 1, 1, 1), (9, 1, 8, 1, 1), (1, 0, 1, 1, 1), (1, 1, 1, 0, 1), (1, 1, 1, 1, 0)]
)
def test_impossible_limits_are_rejected(values: tuple[int, ...]) -> None:
    with pytest.raises(LimitsError, match="max_source_length <= max_tokens"):
        GenerateLimits(*values)


def test_slots_are_32_bit_numbers() -> None:
    signature = encode_source_signature(LIMITS, SLOT, 16, device="cpu")
    assert signature.axis("cross_cache").maximum == MAX_SLOTS < 1 << 31
