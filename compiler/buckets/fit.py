"""The buckets that serves given batches at the least cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from precast.graphs.buckets import Buckets

Cost = Callable[[np.ndarray], np.ndarray]
"""Of batches that run at these sizes, in seconds or anything in proportion; a larger one costs no less."""

GRANULE = 8
"""Buckets are multiples of it, as those of graph_buckets that nobody fitted are, and as kernels like it."""
MAX_CANDIDATES = 1024
"""Sizes that are looked at; time and memory go by their square."""
_EQUAL = 1e-9


def fit_buckets(
    axis: str, demand: np.ndarray, cost: Cost, graphs: int, top: int, *, granule: int = GRANULE
) -> Buckets:
    """The buckets of at most ``graphs`` buckets, ``top`` among them, of the least expected cost.

    Exact, over the multiples of the granule: the best buckets that ends at a size is the best of those that
    end at a smaller one, and what lies between the two. Of graph_buckets that cost the same, one of the fewest
    buckets.

    Args:
        axis: of the buckets.
        demand: how many batches there are of 0, 1, … tokens, none beyond ``top``.
        cost: of a batch by its bucket.
        graphs: buckets at most, one or more.
        top: the last bucket.
        granule: doubled until at most ``MAX_CANDIDATES`` sizes are left.
    """
    sizes, weights = _candidates(demand, top, granule)
    price = np.asarray(cost(sizes), dtype=np.float64)
    below = np.concatenate(([0.0], np.cumsum(weights)))
    # From one candidate to a later one: everything between the two runs at the later one.
    count = len(sizes)
    step = (below[None, 1:] - below[:-1, None]) * price
    step[np.tril_indices(count, -1)] = np.inf
    least, before = step[0], []
    totals = [float(least[-1])]
    for _ in range(min(graphs, count) - 1):
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
    """Of all batches together, each at its bucket."""
    asked = np.flatnonzero(demand)
    sizes = np.array(buckets.sizes)
    return float(demand[asked] @ cost(sizes[np.searchsorted(sizes, asked)]))


def _candidates(demand: np.ndarray, top: int, granule: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes that may become a bucket, ascending, and how many batches each is the first to hold.

    A bucket between two of them would hold no more than the smaller one.
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
