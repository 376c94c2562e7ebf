"""Fitting buckets to a distribution of batch sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from precast.graphs.buckets import Buckets

Cost = Callable[[np.ndarray], np.ndarray]
"""Costs of batches of these sizes, in seconds or proportional to them; a larger batch costs no less."""

GRANULE = 8
"""Fitted buckets are multiples of it, as the default ones are, and as kernels prefer."""
MAX_CANDIDATES = 1024
"""Most sizes to choose from; time and memory grow with their square."""
_EQUAL = 1e-9


def fit_buckets(
    axis: str, demand: np.ndarray, cost: Cost, max_buckets: int, top: int, *, granule: int = GRANULE
) -> Buckets:
    """Return the buckets with the least expected cost; of several equal ones, the fewest.

    The result is exact over the multiples of the granule, by dynamic programming: the best buckets that end
    at a size extend the best buckets that end at a smaller one.

    Args:
        axis: of the buckets.
        demand: number of batches with 0, 1, … tokens, none beyond ``top``.
        cost: of a batch by its bucket.
        max_buckets: most buckets, one or more.
        top: the last bucket.
        granule: doubled until at most ``MAX_CANDIDATES`` sizes are left.
    """
    sizes, weights = _candidates(demand, top, granule)
    price = np.asarray(cost(sizes), dtype=np.float64)
    below = np.concatenate(([0.0], np.cumsum(weights)))
    # step[i, j]: cost of all batches between candidates i and j, which run at j.
    count = len(sizes)
    step = (below[None, 1:] - below[:-1, None]) * price
    step[np.tril_indices(count, -1)] = np.inf
    least, before = step[0], []
    totals = [float(least[-1])]
    for _ in range(min(max_buckets, count) - 1):
        found = least[:-1, None] + step[1:]
        before.append(found.argmin(axis=0))
        least = found[before[-1], np.arange(count)]
        totals.append(float(least[-1]))
    used = next(at for at, total in enumerate(totals) if total <= min(totals) * (1 + _EQUAL))
    place, buckets = count - 1, [top]
    for choice in reversed(before[:used]):
        place = int(choice[place])
        buckets.append(int(sizes[place]))
    return Buckets(axis, tuple(reversed(buckets)))


def expected_cost(buckets: Buckets, demand: np.ndarray, cost: Cost) -> float:
    """Return the total cost of all batches, each run at its bucket."""
    asked = np.flatnonzero(demand)
    sizes = np.array(buckets.sizes)
    return float(demand[asked] @ cost(sizes[np.searchsorted(sizes, asked)]))


def _candidates(demand: np.ndarray, top: int, granule: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes to choose from, ascending, and how many batches have each as their smallest fit.

    No batch has a size between two of them, so a bucket there would be no better than the smaller one.
    """
    asked = np.flatnonzero(demand)
    while True:
        rounded = np.minimum(-(-asked // granule) * granule, top)
        sizes = np.union1d(rounded, [top])
        if len(sizes) <= MAX_CANDIDATES:
            break
        granule *= 2
    weights = np.bincount(np.searchsorted(sizes, rounded), weights=demand[asked], minlength=len(sizes))
    return sizes, weights
