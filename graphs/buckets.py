"""Buckets: the sizes at which a graph is profiled and, on CUDA, captured."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from precast.graphs.errors import BucketError


@dataclass(frozen=True)
class Buckets:
    """Sizes of one axis, strictly ascending.

    A packed batch of ``n`` tokens runs at the smallest bucket that holds ``n``. A backend that
    runs every size equally well (a direct call on a CPU) uses the top bucket alone, as its limit.
    """

    axis: str
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(smaller < larger for smaller, larger in pairwise(self.sizes))
        if not self.sizes or self.sizes[0] < 1 or not ascending:
            raise BucketError(
                f"the buckets of {self.axis} must hold positive sizes in strictly ascending order, "
                f"found {self.sizes}"
            )

    @classmethod
    def doubling(cls, axis: str, top: int, first: int = 16, steps: int = 1) -> Buckets:
        """Return the buckets ``first``, twice that, and so on; the last one is exactly ``top``.

        Args:
            axis: Name of the axis.
            top: The last bucket.
            first: The smallest bucket, unless ``top`` is smaller still.
            steps: Number of evenly spaced sizes from one size up to its double. ``first`` must be a
                multiple of it.

        Raises:
            BucketError: A number is not positive, or ``first`` cannot be divided into ``steps``.
        """
        if first < 1 or steps < 1 or first % steps:
            raise BucketError(
                f"the first bucket of {axis} must be a positive multiple of {steps} steps, found {first}"
            )
        sizes = (
            (first << power) + part * (first << power) // steps
            for power in range(top.bit_length())
            for part in range(steps)
        )
        return cls(axis, (*(size for size in sizes if size < top), top))

    @property
    def top(self) -> int:
        """The largest bucket."""
        return self.sizes[-1]

    def bucket_for(self, size: int) -> int:
        """Return the smallest bucket that holds ``size``.

        Raises:
            BucketError: ``size`` is above the top bucket.
        """
        if size > self.top:
            raise BucketError(
                f"{size} {self.axis} do not fit the top bucket of {self.top}; "
                f"send a smaller batch, or compile with a larger limit"
            )
        return self.sizes[bisect_left(self.sizes, size)]
