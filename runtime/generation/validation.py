"""Checks types and ranges of generation parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as shortened
from typing import Any

import numpy as np

from precast.graphs.generation_parameters import EARLY_STOPPING, Kind, Param
from precast.runtime.errors import OptionError

Ids = tuple[int, ...]

_LARGEST = float(np.finfo(np.float32).max)
_BIAS = "a dictionary of token tuples and numbers, or a list of pairs of both, and not empty"


def wrong(name: str, expected: str, value: object) -> OptionError:
    """Return the error that the value of ``name`` is not as expected."""
    return OptionError(f"{name} must be {expected}, found {shortened(value)}")


def check_type(param: Param, value: Any, vocab_size: int) -> Any:
    """Return the value of a parameter as plain Python, its neutral value for None.

    The range of a number is left to ``check_range``, since it matters only where the number is used.

    Args:
        param: The parameter.
        value: Its value in a call or in the checkpoint.
        vocab_size: Token ids are below it.

    Raises:
        OptionError: The value has another type, or is out of range.
    """
    if value is None:
        return param.neutral
    checked = _READERS[param.kind](param, value, vocab_size)
    if param.kind != "number":
        check_range(param, checked)
    return checked


def check_range(param: Param, value: Any) -> None:
    """Raises: OptionError: The value is not in the parameter's range."""
    if param.check is not None and not param.check.holds(value):
        raise wrong(param.name, param.check.expected, value)


def check_ids(name: str, value: object, vocab_size: int) -> Ids:
    """Return a list of token ids as a tuple.

    Raises:
        OptionError: It is not a list, or an element is not in the vocabulary.
    """
    return tuple(_id(name, token, vocab_size) for token in as_list(name, value, "a list of token ids"))


def as_list(name: str, value: object, expected: str) -> Sequence[Any]:
    """Return ``value`` if it is a list, a tuple or a one-dimensional array.

    Raises:
        OptionError: It is none of these; ``expected`` completes the message "must be ...".
    """
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise wrong(name, expected, value)
    return value


def as_number(name: str, value: Any, forbidding: bool = False) -> float:
    """Return ``value`` as a float that fp32 can hold; with ``forbidding`` it may be minus infinity.

    Raises:
        OptionError: It is not such a number.
    """
    if isinstance(value, np.generic):
        value = value.item()  # a 16-bit number would be compared in 16 bits
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compare before converting: an integer may be too large for a float.
    if is_number and (-_LARGEST <= value <= _LARGEST or (forbidding and value == -math.inf)):
        return float(value)
    raise wrong(name, "a finite number of 32 bits" + (", or minus infinity" if forbidding else ""), value)


def _integer(param: Param, value: Any, _: int) -> int:
    if not _is_integer(value):
        raise wrong(param.name, param.check.expected if param.check else "a whole number", value)
    return int(value)


def _number(param: Param, value: Any, _: int) -> float:
    return as_number(param.name, value)


def _flag(param: Param, value: Any, _: int) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise wrong(param.name, "True or False", value)
    return bool(value)


def _early_stopping(param: Param, value: Any, _: int) -> bool | str:
    # 0 and 1 would equal False and True, and arrays are not hashable.
    if not isinstance(value, bool | np.bool_ | str) or value not in EARLY_STOPPING:
        raise wrong(param.name, "True, False or 'never'", value)
    return value if isinstance(value, str) else bool(value)


def _token(param: Param, value: Any, vocab_size: int) -> int:
    return _id(param.name, value, vocab_size)


def _tokens(param: Param, value: Any, vocab_size: int) -> Ids:
    """Return distinct ids; a single id stands for a list of one."""
    listed = [value] if _is_integer(value) else value
    tokens = tuple(dict.fromkeys(check_ids(param.name, listed, vocab_size)))
    if param.shape and len(tokens) > param.shape[0]:
        raise OptionError(f"{param.name} must name at most {param.shape[0]} tokens, found {len(tokens)}")
    return tokens


def _sequences(param: Param, value: Any, vocab_size: int) -> tuple[Ids, ...]:
    expected = "a list of lists of token ids"
    listed = as_list(param.name, value, expected)
    if not listed:
        raise wrong(param.name, f"{expected}, and not empty", value)
    return tuple(dict.fromkeys(_sequence(param.name, ids, vocab_size) for ids in listed))


def _biases(param: Param, value: Any, vocab_size: int) -> tuple[tuple[Ids, float], ...]:
    pairs = list(value.items()) if isinstance(value, dict) else as_list(param.name, value, _BIAS)
    if not pairs:
        raise wrong(param.name, _BIAS, value)
    biases: dict[Ids, float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise wrong(param.name, _BIAS, value)
        # As in Hugging Face, the last bias of a sequence wins.
        biases[_sequence(param.name, pair[0], vocab_size)] = as_number(param.name, pair[1], True)
    return tuple(biases.items())


def _sequence(name: str, value: object, vocab_size: int) -> Ids:
    sequence = check_ids(name, value, vocab_size)
    if not sequence:
        raise wrong(name, "made of sequences of at least one token", value)
    return sequence


def _id(name: str, value: Any, vocab_size: int) -> int:
    if not _is_integer(value):
        raise wrong(name, "made of token ids, which are whole numbers", value)
    if not 0 <= value < vocab_size:
        raise OptionError(
            f"{name} names the token {shortened(value)}; the vocabulary has ids from 0 to {vocab_size - 1}"
        )
    return int(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


_READERS: Mapping[Kind, Callable[[Param, Any, int], Any]] = {
    "integer": _integer,
    "number": _number,
    "flag": _flag,
    "early_stopping": _early_stopping,
    "token": _token,
    "tokens": _tokens,
    "sequences": _sequences,
    "biases": _biases,
}
