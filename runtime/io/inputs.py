"""Parses a caller's inputs: texts, pairs of texts and token ids, single or in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from precast.runtime.errors import EmptyInputError, InputTypeError, TokenIdError

Item = str | tuple[str, str] | np.ndarray
"""A text, a pair of texts, or token ids (int64, one dimension)."""


def is_token_ids(value: Any) -> bool:
    """Return whether ``value`` is one list of token ids: a non-empty list of integers, or a vector."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 1
    if not isinstance(value, (list, tuple)) or not value:
        return False
    kinds = set(map(type, value))  # usually one type, however many tokens there are
    return kinds == {int} or all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds)


def is_pair(value: Any) -> bool:
    """Return whether ``value`` is a list or tuple of two texts."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(t, str) for t in value)


def split(inputs: Any, *, pairs: bool) -> tuple[list[Any], bool]:
    """Return the inputs as a list, and whether a single input was given.

    Args:
        inputs: One input or a sequence of inputs.
        pairs: Whether a tuple of two texts is one input.

    Raises:
        InputTypeError: ``inputs`` is neither.
    """
    if (
        isinstance(inputs, str)
        or is_token_ids(inputs)
        or (pairs and isinstance(inputs, tuple) and is_pair(inputs))
    ):
        return [inputs], True
    return as_list(inputs, "a text, token ids or a list of these"), False


def as_list(values: Any, expected: str) -> list[Any]:
    """Return the items of an ordered collection as a list.

    Args:
        values: The collection.
        expected: Completes "expected ..." in the error message.

    Raises:
        InputTypeError: ``values`` is not an ordered collection.
    """
    if not isinstance(values, (str, bytes, bytearray, dict, set, frozenset)):
        try:
            items = iter(values)
        except TypeError:  # a class, or a zero-dimensional array
            pass
        else:
            return list(items)
    raise InputTypeError(f"expected {expected}, found {_describe(values)}")


def parse(value: Any) -> Item:
    """Return one input after checking that it is a text, a pair of texts or token ids.

    Raises:
        InputTypeError: The value is of another type.
        EmptyInputError: A list of token ids is empty.
        TokenIdError: A token id does not fit 64 bits.
    """
    if is_pair(value):
        return (value[0], value[1])
    return _text_or_ids(value, "a text, a pair of texts or token ids")


def parse_without_pairs(value: Any) -> Item:
    """As ``parse``, for calls that accept no pairs."""
    return _text_or_ids(value, "a text or token ids")


def parse_pair(value: Any) -> Item:
    """Return a pair of texts as a tuple.

    Raises:
        InputTypeError: The value is not a pair of texts.
    """
    if not is_pair(value):
        raise InputTypeError(f"expected a pair of texts, found {_describe(value)}")
    return (value[0], value[1])


def _text_or_ids(value: Any, expected: str) -> Item:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and not value:
        raise EmptyInputError("a list of token ids needs at least one token")
    if is_token_ids(value):
        return _ids(value)
    raise InputTypeError(f"expected {expected}, found {_describe(value)}")


def _ids(value: Any) -> np.ndarray:
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, meta and the like
        raise InputTypeError(f"token ids must be integers, found {_describe(value)}") from error
    if array.size == 0:
        raise EmptyInputError("an array of token ids needs at least one token")
    # numpy turns integers beyond 64 bits into objects or floats.
    if isinstance(value, (list, tuple)) and array.dtype.kind not in "iu":
        # The number itself may be too long to print.
        raise TokenIdError(f"a token id of {int(max(value, key=abs)).bit_length()} bits does not fit 64 bits")
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"token ids must be integers, found an array of {array.dtype}")
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise TokenIdError(f"token id {array.max()} does not fit 64 bits")
    # Copy arrays: the caller may change them after the check.
    return array.astype(np.int64, copy=not isinstance(value, (list, tuple)))


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {sorted({type(item).__name__ for item in value})}"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return type(value).__name__
