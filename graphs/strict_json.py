"""Strict JSON: Python's own reader accepts repeated keys, NaN and infinity."""

from __future__ import annotations

import json
import math
from collections import Counter
from reprlib import repr as shortened
from typing import Any


def loads(text: str | bytes) -> Any:
    """Parse one JSON value.

    Raises:
        ValueError: The text is not JSON, an object repeats a key, or a number is not finite.
        RecursionError: The value is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, parse_float=_finite, parse_constant=_finite)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"a key is repeated: {shortened(repeated)}")
    return data


def _finite(text: str) -> float:
    """Parse a number; Python would also accept ``NaN``, and read ``1e999`` as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number
