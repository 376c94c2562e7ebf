"""What a batch costs, by its size: told from what was measured at the buckets of a buckets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """Seconds of a batch at each of some ascending sizes."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, wanted: np.ndarray) -> np.ndarray:
        """Seconds of batches of the ``wanted`` sizes, none of them beyond the last size.

        Linear between two sizes. Below the first the line goes on, since a call costs something whatever it
        holds, but never falls below a share of the first size's seconds. A size that was measured faster
        than a smaller one was measured badly; it counts as much as that one.
        """
        first, seconds = self.sizes[0], np.maximum.accumulate(self.seconds)
        slope = seconds[0] / first
        if len(self.sizes) > 1:
            slope = (seconds[1] - seconds[0]) / (self.sizes[1] - first)
        below = np.maximum(seconds[0] - slope * (first - wanted), seconds[0] * wanted / first)
        return np.where(wanted < first, below, np.interp(wanted, self.sizes, seconds))
