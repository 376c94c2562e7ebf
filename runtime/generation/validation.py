"""Reading the values of a call: every type and range is checked here, once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import numpy as np

from precast.runtime.errors import OptionError

Ids = tuple[int, ...]

_LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
"""The graphs compute with 32-bit numbers; a smaller one would become zero there."""


def wrong(name: str, expected: str, found: object) -> OptionError:
    """The error that says so."""
    return OptionError(f"{name} must be {expected}, found {shortened(found)}")


@dataclass(frozen=True)
class Values:
    """The parameters of one call by name. One that is missing or None is None or its neutral value."""

    given: Mapping[str, Any]
    vocab_size: int

    def integer(self, name: str, least: int) -> int | None:
        """A whole number from ``least`` up."""
        value = self.given.get(name)
        if value is None:
            return None
        if not _is_integer(value) or value < least:
            raise wrong(name, f"a whole number of at least {least}", value)
        return int(value)

    def number(self, name: str, neutral: float) -> float:
        """A finite number, whole ones included."""
        value = self.given.get(name)
        return neutral if value is None else as_number(name, value)

    def positive(self, name: str, neutral: float) -> float:
        """A finite number above zero."""
        value = self.number(name, neutral)
        if value < SMALLEST:
            raise wrong(name, "a number above 0", value)
        return value

    def flag(self, name: str) -> bool:
        """True or False."""
        value = self.given.get(name)
        if value is not None and not isinstance(value, bool | np.bool_):
            raise wrong(name, "True or False", value)
        return bool(value)

    def token(self, name: str) -> int | None:
        """One token id."""
        value = self.given.get(name)
        return None if value is None else self._id(name, value)

    def tokens(self, name: str) -> Ids | None:
        """A list of token ids, each kept once; a single one may stand for its list."""
        value = self.given.get(name)
        if value is None:
            return None
        return tuple(dict.fromkeys(self.ids(name, [value] if _is_integer(value) else value)))

    def ids(self, name: str, value: object) -> Ids:
        """``value`` as token ids, all inside the vocabulary."""
        return tuple(self._id(name, one) for one in as_list(name, value, "a list of token ids"))

    def _id(self, name: str, value: Any) -> int:
        if not _is_integer(value):
            raise wrong(name, "made of token ids, which are whole numbers", value)
        if not 0 <= value < self.vocab_size:
            raise OptionError(
                f"{name} names the token {shortened(value)}; the vocabulary has ids from 0 to "
                f"{self.vocab_size - 1}"
            )
        return int(value)


def as_list(name: str, value: object, expected: str) -> Sequence[Any]:
    """``value`` if it is a list, a tuple or a one-dimensional array."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if not isinstance(value, list | tuple):
        raise wrong(name, expected, value)
    return value


def as_number(name: str, value: object, forbidding: bool = False) -> float:
    """``value`` as a number that 32 bits can hold; ``forbidding``: or minus infinity."""
    if isinstance(value, np.generic):
        value = value.item()  # a 16-bit number would be compared in 16 bits
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Comparing before converting: a whole number may be too large to be a float at all.
        if -_LARGEST <= value <= _LARGEST or (forbidding and value == -math.inf):
            return float(value)
    raise wrong(name, "a finite number of 32 bits" + (", or minus infinity" if forbidding else ""), value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
