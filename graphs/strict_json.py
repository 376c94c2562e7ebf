"""JSON as the standard has it: Python's own reader lets repeated keys, NaN and infinity through."""

from __future__ import annotations

import json
import math
from collections import Counter
from reprlib import repr as shortened
from typing import Any


def loads(text: str | bytes) -> Any:
    """Read one JSON value.

    Raises:
        ValueError: no JSON, a key that is repeated within an object, or a number that is not finite.
        RecursionError: nested too deep.
    """
    return json.loads(text, object_pairs_hook=_without_repeats, parse_float=_finite, parse_constant=_finite)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"a key is repeated: {shortened(repeated)}")
    return data


def _finite(text: str) -> float:
    """Python would also read ``NaN``, and 1e999 as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number
