"""Tokens a second, over the last seconds."""

from __future__ import annotations

import time
from collections import deque

_SECONDS = 5.0
_ENTRIES = 4096


class Speed:
    """Counts what was done when, and forgets what is long ago."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque(maxlen=_ENTRIES)

    def add(self, count: int) -> None:
        self._done.append((time.monotonic(), count))

    def per_second(self) -> float:
        """Over the last ``5`` seconds, or since the first count if that is later; 0 without any."""
        now = time.monotonic()
        recent = [entry for entry in tuple(self._done) if entry[0] > now - _SECONDS]
        if len(recent) < 2:
            return 0.0
        # What the first entry counts was done before its time.
        return sum(count for _, count in recent[1:]) / max(now - recent[0][0], 1e-9)
