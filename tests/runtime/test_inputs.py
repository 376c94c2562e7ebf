"""Parsing of inputs: single inputs, lists, and invalid values."""

from __future__ import annotations

import array
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.errors import EmptyInputError, InputError, InputTypeError, TokenIdError
from precast.runtime.io.inputs import is_token_ids, parse, parse_pair, parse_without_pairs, split


class Text(str):
    """A subclass of str, as numpy's."""


def named(value: Any) -> str:
    """Return a test id without addresses, which is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize(
    "value",
    ["a text", "", Text("a text"), np.str_("a text"), [1, 2], (1, 2), [np.int32(1), 2], np.array([1, 2]),
     np.array([1.5]), np.array([]), torch.tensor([1, 2])],
    ids=named,
)  # fmt: skip
@pytest.mark.parametrize("pairs", [True, False])
def test_one_input(value: Any, pairs: bool) -> None:
    items, single = split(value, pairs=pairs)
    assert single and len(items) == 1 and items[0] is value


def test_a_tuple_of_two_texts_is_one_input_where_pairs_are() -> None:
    assert split(("a", "b"), pairs=True) == ([("a", "b")], True)
    assert split(("a", "b"), pairs=False) == (["a", "b"], False)
    assert split(["a", "b"], pairs=True) == (["a", "b"], False)


def generated() -> Iterator[Any]:
    yield "a"
    yield [1, 2]


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ([], []),
        ((), []),
        (["a"], ["a"]),
        (("a", [1], "b"), ["a", [1], "b"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [1, 2], ("b", "c"), 3], ["a", [1, 2], ("b", "c"), 3]),
        ([True, False], [True, False]),
        ([1, "a"], [1, "a"]),
        (generated(), ["a", [1, 2]]),
        (map(str, [1, 2]), ["1", "2"]),
        ({"a": 1}.keys(), ["a"]),
    ],
    ids=named,
)
def test_many_inputs(value: Any, items: list[Any]) -> None:
    assert split(value, pairs=True) == (items, False)


@pytest.mark.parametrize("rows", [np.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3)], ids=type)
def test_the_rows_of_an_array_are_inputs(rows: Any) -> None:
    items, single = split(rows, pairs=False)
    assert not single
    assert [np.asarray(parse_without_pairs(item)).tolist() for item in items] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "value",
    [None, 1, 1.5, True, b"ab", bytearray(b"ab"), {"a": 1}, {"a"}, frozenset("a"), object(), list, str,
     np.array(5), torch.tensor(5), np.float32(1), lambda: 1, ...],
    ids=named,
)  # fmt: skip
@pytest.mark.parametrize("pairs", [True, False])
def test_no_input_at_all(value: Any, pairs: bool) -> None:
    with pytest.raises(InputTypeError, match=f"expected a text.*found.*{type(value).__name__}"):
        split(value, pairs=pairs)


def test_an_error_of_a_generator_is_its_own() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        split(broken(), pairs=True)


def test_texts_and_pairs_are_taken_as_they_are() -> None:
    assert parse_without_pairs("a") == "a"
    assert parse(("a", "b")) == ("a", "b")
    assert parse(["a", "b"]) == ("a", "b")
    assert parse_pair(["a", "b"]) == ("a", "b")


@pytest.mark.parametrize("value", ["ab", ("a",), ("a", "b", "c"), ("a", 1), [1, 2], None], ids=named)
def test_values_that_are_not_pairs(value: Any) -> None:
    with pytest.raises(InputTypeError, match="pair"):
        parse_pair(value)


IDS: list[Callable[[list[int]], Any]] = [
    list, tuple, np.array, torch.tensor, lambda ids: [np.int64(i) for i in ids],
    lambda ids: np.array(ids, dtype=np.uint64), lambda ids: np.array(ids, dtype=np.int16)[::1],
    lambda ids: np.array([i for i in ids for _ in (0, 1)])[::2], lambda ids: np.array(ids, dtype=">i4"),
    lambda ids: torch.tensor(ids, dtype=torch.int32), lambda ids: torch.tensor([ids, ids]).T[:, 0],
]  # fmt: skip


@given(ids=st.lists(st.integers(0, 30_000), min_size=1, max_size=20), make=st.sampled_from(IDS))
def test_token_ids_of_every_kind_are_the_same(ids: list[int], make: Callable[[list[int]], Any]) -> None:
    value = make(ids)
    assert is_token_ids(value)
    found = parse(value)
    assert isinstance(found, np.ndarray) and found.dtype == np.int64 and found.ndim == 1
    assert found.tolist() == ids


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([], EmptyInputError),
        ((), EmptyInputError),
        (np.array([], dtype=np.int64), EmptyInputError),
        (np.array([]), EmptyInputError),
        (torch.tensor([]), EmptyInputError),
        ([2**63], TokenIdError),
        ([-(2**63) - 1], TokenIdError),
        ([1, 2**64], TokenIdError),
        ([-1, 2**63], TokenIdError),
        ([10**400], TokenIdError),
        ([1 << 100_000], TokenIdError),
        (np.array([2**63], dtype=np.uint64), TokenIdError),
        (torch.tensor([2**63], dtype=torch.uint64), TokenIdError),
        ([True, False], InputTypeError),
        ([1, True], InputTypeError),
        ([1, 2.0], InputTypeError),
        ([1, "a"], InputTypeError),
        ([[1]], InputTypeError),
        ([None], InputTypeError),
        ("a", None),
        (1, InputTypeError),
        (None, InputTypeError),
        (b"a", InputTypeError),
        ({1: 2}, InputTypeError),
        ({1}, InputTypeError),
        (range(3), InputTypeError),
        (array.array("i", [1]), InputTypeError),
        (("a", "b", "c"), InputTypeError),
        (("a", None), InputTypeError),
        (np.array([1.0]), InputTypeError),
        (np.array([np.nan]), InputTypeError),
        (np.array([True]), InputTypeError),
        (np.array(["a"]), InputTypeError),
        (np.array([None]), InputTypeError),
        (np.array([1j]), InputTypeError),
        (np.array([[1]]), InputTypeError),
        (np.array(1), InputTypeError),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), InputTypeError),
        (np.array([(1,)], dtype=[("id", int)]), InputTypeError),
        (torch.tensor([1.0]), InputTypeError),
        (torch.tensor([1.0], dtype=torch.bfloat16), InputTypeError),
        (torch.tensor([1.0], requires_grad=True), InputTypeError),
        (torch.tensor([True]), InputTypeError),
        (torch.tensor([1j]).conj(), InputTypeError),
        (torch.tensor([0, 1]).to_sparse(), InputTypeError),
        (torch.zeros(1, dtype=torch.int64, device="meta"), InputTypeError),
        (torch.tensor(1), InputTypeError),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else "",
)
def test_values_that_are_not_inputs(value: Any, error: type[InputError] | None) -> None:
    if error is None:
        assert parse(value) == value
        return
    with pytest.raises(error) as raised:
        parse(value)
    assert type(raised.value) is error and str(raised.value)


def test_messages_name_the_expected_and_the_found_type() -> None:
    with pytest.raises(InputTypeError, match="a text or token ids, found tuple of .'str'"):
        parse_without_pairs(("a", "b"))
    with pytest.raises(InputTypeError, match="pair of texts or token ids, found list of .'int', 'str'"):
        parse([1, "a"])
    with pytest.raises(InputTypeError, match=r"found ndarray of shape \(1, 2\) and int64"):
        parse(np.array([[1, 2]]))
    with pytest.raises(TokenIdError, match="of 71 bits"):
        parse([1, 2**70])
