"""Signatures: tensors and sizes that do not fit are found before a graph runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.graphs.encode import MAX_BATCH, MAX_TOKENS, EncodeLimits, Task, encode_output, encode_signature
from precast.graphs.errors import LimitsError, SignatureError
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Axis, Buffer, Signature, split_dim

Tensors = dict[str, torch.Tensor]

LIMITS = EncodeLimits(max_length=8, max_tokens=32, max_batch=4)
SIGNATURE = encode_signature(
    LIMITS, encode_output("embed", 6), device="cpu", token_types=True, prompt_lengths=True
)
SIZES = {"tokens": 12, "sequences": 3, "length": 7}


def fitting(sizes: dict[str, int] = SIZES) -> Tensors:
    return {b.name: torch.zeros(b.sizes(sizes), dtype=b.torch_dtype) for b in SIGNATURE.inputs}


def replaced(**tensors: torch.Tensor) -> Callable[[], Tensors]:
    return lambda: {**fitting(), **tensors}


def int32(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


@given(tokens=st.integers(2, 32), sequences=st.integers(2, 4), length=st.integers(2, 8), spare=st.booleans())
def test_fitting_tensors_pass(tokens: int, sequences: int, length: int, spare: bool) -> None:
    sizes = {"tokens": tokens, "sequences": sequences, "length": length}
    SIGNATURE.check({**fitting(sizes), **({"more": int32(1)} if spare else {})}, sizes)


@pytest.mark.parametrize(
    ("name", "size"),
    [("tokens", 33), ("tokens", 1), ("tokens", 0), ("tokens", -1), ("sequences", 5), ("sequences", 1),
     ("length", 9), ("length", 1), ("tokens", 10**12)],
)  # fmt: skip
def test_a_size_outside_its_axis(name: str, size: int) -> None:
    with pytest.raises(SignatureError, match=f"encode: {size} {name} are outside 2 to"):
        SIGNATURE.check(fitting(), {**SIZES, name: size})


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (replaced(input_ids=int32(11)), r"input_ids.*\(12,\).*found.*\(11,\)"),
        (replaced(input_ids=int32(12, 1)), r"input_ids.*\(12,\).*\(12, 1\)"),
        (replaced(input_ids=torch.tensor(0, dtype=torch.int32)), r"input_ids.*\(12,\).*\(\)"),
        (replaced(cu_seqlens=int32(3)), r"cu_seqlens.*\(4,\).*\(3,\)"),
        (replaced(key_positions=int32(8)), r"key_positions.*\(7,\).*\(8,\)"),
        (replaced(prompt_lengths=int32(4)), r"prompt_lengths.*\(3,\).*\(4,\)"),
        (replaced(input_ids=torch.zeros(12, dtype=torch.int64)), r"input_ids.*int32.*int64"),
        (replaced(input_ids=torch.zeros(12)), r"input_ids.*int32.*float32"),
        (replaced(input_ids=int32(24)[::2]), r"input_ids.*True, True.*False, True"),
        (replaced(input_ids=int32(16)[1:13]), r"input_ids.*True, True.*True, False"),
        (lambda: {k: v for k, v in fitting().items() if k != "cu_seqlens"}, r"\['cu_seqlens'\] are missing"),
        (dict, r"\['input_ids', .*missing"),
    ],
)
def test_a_tensor_that_does_not_fit(tensors: Callable[[], Tensors], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        SIGNATURE.check(tensors(), SIZES)


def test_missing_size() -> None:
    with pytest.raises(SignatureError, match=r"\['length'\] are missing"):
        SIGNATURE.check(fitting(), {"tokens": 12, "sequences": 3})


@pytest.mark.parametrize(
    "results",
    [[], [torch.zeros(3, 6)] * 2, [torch.zeros(3, 7)], [torch.zeros(4, 6)], [torch.zeros(18)],
     [torch.zeros(3, 6, dtype=torch.float64)], [torch.zeros(3, 6, dtype=torch.bfloat16)]],
)  # fmt: skip
def test_outputs_that_do_not_match(results: list[torch.Tensor]) -> None:
    with pytest.raises(SignatureError, match="encode: expected the outputs.*3, 6.*found"):
        SIGNATURE.check_outputs(results, SIZES)


def test_outputs_that_match() -> None:
    SIGNATURE.check_outputs([torch.zeros(3, 6)], SIZES)
    SIGNATURE.check_outputs([torch.zeros(6, 3).T], SIZES)  # outputs may have any layout


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Axis("tokens", 3, 2), "tokens.*3 and 2"),
        (lambda: Axis("tokens", 0, 2), "tokens.*0 and 2"),
        (lambda: Axis("tokens", -2, -1), "tokens.*-2 and -1"),
        (lambda: Buffer("x", "float8", ()), "x.*float8.*bfloat16"),
        (lambda: Buffer("x", "torch.int32", ()), r"torch\.int32"),
        (
            lambda: Signature(GraphName.ENCODE, (), (Buffer("x", "int32", ("lines",)),), (), ()),
            "x uses an unknown axis 'lines'",
        ),
        (
            lambda: Signature(GraphName.ENCODE, (), (), (Buffer("x", "int32", ("lines+1",)),), ()),
            r"unknown axis 'lines\+1'",
        ),
        (
            lambda: Signature(GraphName.ENCODE, (), (Buffer("x", "int32", (0,)),), (), ()),
            "x has a dimension of 0",
        ),
        (
            lambda: Signature(GraphName.ENCODE, (), (Buffer("x", "int32", (-4,)),), (), ()),
            "x has a dimension of -4",
        ),
        (lambda: Signature(GraphName.ENCODE, (), (Buffer("x", "int32", (2,)),) * 2, (), ()), "names repeat"),
        (lambda: Signature(GraphName.ENCODE, (), (Buffer("x", "int32", (2,)),), (), ("y",)), "writes .*'y'"),
        (
            lambda: Signature(
                GraphName.ENCODE, (), (Buffer("x", "int32", (2,)),), (Buffer("x", "int32", (2,)),), ()
            ),
            "repeat",
        ),
        (lambda: SIGNATURE.axis("lines"), "no axis 'lines'; it has.*tokens"),
    ],
)
def test_malformed_signatures_are_rejected(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        make()


def test_dimensions() -> None:
    assert split_dim("tokens") == ("tokens", 0)
    assert split_dim("sequences+1") == ("sequences", 1)
    for wrong in ("a+", "a+x", "a+-1", "a++1", "a+ 1", "a+1.5", "a+٣", "a+" + "9" * 5000):
        with pytest.raises(SignatureError, match="axis plus a number"):
            split_dim(wrong)
    assert Buffer("x", "int32", ("tokens", "sequences+1", 5)).sizes(SIZES) == (12, 4, 5)


@pytest.mark.parametrize(
    ("task", "name", "axis"),
    [
        ("embed", "embedding", "sequences"),
        ("classify", "logits", "sequences"),
        ("rerank", "logits", "sequences"),
        ("token-classify", "logits", "tokens"),
        ("hidden", "hidden", "tokens"),
    ],
)
@given(token_types=st.booleans(), prompts=st.booleans())
def test_the_encode_graph(task: Task, name: str, axis: str, token_types: bool, prompts: bool) -> None:
    signature = encode_signature(
        LIMITS, encode_output(task, 6), device="cpu", token_types=token_types, prompt_lengths=prompts
    )
    names = [buffer.name for buffer in signature.inputs]
    assert names[0] == "input_ids" and {"cu_seqlens", "key_positions"} < set(names)
    assert ("token_type_ids" in names, "prompt_lengths" in names) == (token_types, prompts)
    assert signature.outputs == (Buffer(name, "float32", (axis, 6)),)
    assert {axis.name: axis.maximum for axis in signature.axes} == {"tokens": 32, "sequences": 4, "length": 8}


def test_on_cuda_no_axis_depends_on_the_longest_input() -> None:
    signature = encode_signature(
        LIMITS, encode_output("embed", 6), device="cuda", token_types=False, prompt_lengths=False
    )
    assert [buffer.name for buffer in signature.inputs] == ["input_ids", "cu_seqlens"]
    assert [axis.name for axis in signature.axes] == ["tokens", "sequences"]


def test_every_axis_allows_the_size_of_two_that_tracing_needs() -> None:
    signature = encode_signature(
        EncodeLimits(1, 1, 1),
        encode_output("embed", 6),
        device="cpu",
        token_types=False,
        prompt_lengths=False,
    )
    assert [(axis.minimum, axis.maximum) for axis in signature.axes] == [(2, 2)] * 3


@pytest.mark.parametrize(
    "limits",
    [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1), (9, 8, 1), (1, MAX_TOKENS + 1, 1), (1, 1, MAX_BATCH + 1),
     (10**12, 10**12, 1), (10**30, 10**30, 10**30)],
)  # fmt: skip
def test_impossible_limits_are_rejected(limits: tuple[int, int, int]) -> None:
    with pytest.raises(LimitsError, match=f"max_length={limits[0]}, max_tokens={limits[1]}"):
        EncodeLimits(*limits)


def test_the_largest_possible_limits() -> None:
    assert EncodeLimits(MAX_TOKENS, MAX_TOKENS, MAX_BATCH).buckets("cpu").top == MAX_TOKENS
