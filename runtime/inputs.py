"""What a user may pass, taken apart: texts, pairs of texts, token ids, one or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from precast.runtime.errors import EmptyInputError, InputTypeError, TokenIdError

Item = str | tuple[str, str] | np.ndarray
"""A text, a pair of texts, or token ids (int64, one dimension)."""


def is_token_ids(value: Any) -> bool:
    """Whether ``value`` stands for one list of token ids: a non-empty list of integers, or an array."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 1
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(token, (int, np.integer)) and not isinstance(token, bool) for token in value)


def is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(t, str) for t in value)


def split(inputs: Any, *, pairs: bool) -> tuple[list[Any], bool]:
    """The inputs as a list, and whether a single one was given.

    Args:
        inputs: one input or a sequence of them.
        pairs: whether a tuple of two texts is one input.

    Raises:
        InputTypeError: neither.
    """
    if (
        isinstance(inputs, str)
        or is_token_ids(inputs)
        or (pairs and isinstance(inputs, tuple) and is_pair(inputs))
    ):
        return [inputs], True
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        return list(inputs), False
    if isinstance(inputs, Sequence) and not isinstance(inputs, (bytes, bytearray)):
        return list(inputs), False
    if hasattr(inputs, "__iter__") and not isinstance(inputs, (bytes, bytearray, dict, set, frozenset)):
        return list(inputs), False
    raise InputTypeError(f"expected a text, token ids or a list of these, found {type(inputs).__name__}")


def parse(value: Any, *, pairs: bool) -> Item:
    """One input, checked.

    Raises:
        InputTypeError: of no known kind.
        EmptyInputError: token ids without a token.
    """
    if isinstance(value, str):
        return value
    if pairs and is_pair(value):
        return (value[0], value[1])
    if isinstance(value, (list, tuple)) and not value:
        raise EmptyInputError("a list of token ids needs at least one token")
    if is_token_ids(value):
        return _ids(value)
    kinds = "a text, a pair of texts or token ids" if pairs else "a text or token ids"
    raise InputTypeError(f"expected {kinds}, found {_describe(value)}")


def _ids(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
        if array.size == 0:
            raise EmptyInputError("an array of token ids needs at least one token")
        if array.dtype.kind not in "iu":
            raise InputTypeError(f"token ids must be integers, found an array of {array.dtype}")
        return array.astype(np.int64, casting="same_kind" if array.dtype.kind == "i" else "unsafe")
    except OverflowError as error:
        raise TokenIdError("a token id does not fit 64 bits") from error


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {sorted({type(item).__name__ for item in value})}"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return type(value).__name__
