"""Maps batches to the buckets at which graphs are captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from precast.graphs.buckets import Buckets
from precast.graphs.signature import Signature
from precast.runtime.cuda.layout import Layout


@dataclass(frozen=True)
class ReplayShape:
    """How a launch runs.

    Attributes:
        bucket: Bucket of the captured graph; None to call the graph directly.
        sizes: Size of each axis.
        inputs: Layout of the inputs.
    """

    bucket: int | None
    sizes: Mapping[str, int]
    inputs: Layout


@dataclass(frozen=True)
class BucketDispatcher:
    """Chooses the bucket of a batch, and the sizes of the graph's other axes at that bucket.

    Args:
        signature: Signature of the graph.
        buckets: Buckets of its first axis.
        largest: Size of each axis in the largest batch; larger buckets are never used.
    """

    signature: Signature
    buckets: Buckets
    largest: Mapping[str, int]
    _shapes: dict[int, ReplayShape] = field(default_factory=dict, init=False, repr=False, compare=False)

    def shape_for(self, needed: Mapping[str, int]) -> ReplayShape:
        """Return how a batch of the ``needed`` sizes runs: at its bucket, or above the top one directly."""
        size = needed[self.buckets.axis]
        if size > self.buckets.top:
            return self._shape(None, needed)
        bucket = self.buckets.bucket_for(size)
        if bucket not in self._shapes:
            # Every sequence has at least one token, so a bucket holds no more of them than tokens.
            self._shapes[bucket] = self._shape(
                bucket,
                {axis.name: min(bucket, axis.maximum) for axis in self.signature.axes}
                | {self.buckets.axis: bucket},
            )
        return self._shapes[bucket]

    def in_use(self) -> list[int]:
        """Return the buckets in use, largest first: the memory pool of the first one fits all others."""
        top = min(self.largest[self.buckets.axis], self.buckets.top)
        return [size for size in reversed(self.buckets.sizes) if size <= self.buckets.bucket_for(top)]

    def input_bytes(self) -> int:
        """Return the bytes that hold the inputs of any launch."""
        ends = [self.shape_for(self.largest), self.shape_for({self.buckets.axis: self.in_use()[0]})]
        return max(shape.inputs.nbytes for shape in ends)

    def _shape(self, bucket: int | None, wanted: Mapping[str, int]) -> ReplayShape:
        sizes = {axis.name: max(axis.minimum, wanted[axis.name]) for axis in self.signature.axes}
        return ReplayShape(bucket, sizes, Layout.of(self.signature.inputs, sizes))
