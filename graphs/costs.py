"""Batch costs by size, interpolated between the buckets that were profiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Costs:
    """Profiled duration of a batch at each of several ascending sizes."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the estimated seconds of batches of the given sizes.

        Linear between two profiled sizes. Below the first one the line is extended, since a call has a fixed
        cost, but never below the first size's seconds in proportion. A size that was profiled faster than a
        smaller one is noise and counts as much as the smaller one.

        Args:
            wanted: Sizes, none of them above the last profiled one.
        """
        first, seconds = self.sizes[0], np.maximum.accumulate(self.seconds)
        slope = seconds[0] / first
        if len(self.sizes) > 1:
            slope = (seconds[1] - seconds[0]) / (self.sizes[1] - first)
        below = np.maximum(seconds[0] - slope * (first - wanted), seconds[0] * wanted / first)
        return np.where(wanted < first, below, np.interp(wanted, self.sizes, seconds))
