"""At which sizes a batch runs where graphs are captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from precast.graphs.buckets import Buckets
from precast.graphs.signature import Signature
from precast.runtime.cuda.layout import Layout


@dataclass(frozen=True)
class ReplayShape:
    """The sizes of a launch and where its inputs lie. Without a ``bucket`` it is called directly."""

    bucket: int | None
    sizes: Mapping[str, int]
    inputs: Layout


@dataclass(frozen=True)
class BucketDispatcher:
    """The buckets of a graph, and what it means for the graph's other axes.

    Args:
        signature: of the graph.
        buckets: of one of its axes.
        largest: of each axis, what the largest batch needs; buckets beyond it are never met.
    """

    signature: Signature
    buckets: Buckets
    largest: Mapping[str, int]
    _plans: dict[int, ReplayShape] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(self, needed: Mapping[str, int]) -> ReplayShape:
        """How a batch of the ``needed`` sizes runs: at its bucket, above the buckets at its own sizes."""
        size = needed[self.buckets.axis]
        if size > self.buckets.top:
            return self._planned(None, needed)
        bucket = self.buckets.bucket_for(size)
        if bucket not in self._plans:
            # What the other axes count has one token at least, so a bucket holds no more than its own size.
            self._plans[bucket] = self._planned(
                bucket,
                {axis.name: min(bucket, axis.maximum) for axis in self.signature.axes}
                | {self.buckets.axis: bucket},
            )
        return self._plans[bucket]

    def reachable(self) -> list[int]:
        """Buckets that batches run at, largest first: a memory pool that fits the first fits all others."""
        top = min(self.largest[self.buckets.axis], self.buckets.top)
        return [size for size in reversed(self.buckets.sizes) if size <= self.buckets.bucket_for(top)]

    def input_bytes(self) -> int:
        """Memory that holds the inputs of every plan."""
        ends = [self.plan(self.largest), self.plan({self.buckets.axis: self.reachable()[0]})]
        return max(plan.inputs.nbytes for plan in ends)

    def _planned(self, bucket: int | None, wanted: Mapping[str, int]) -> ReplayShape:
        sizes = {axis.name: max(axis.minimum, wanted[axis.name]) for axis in self.signature.axes}
        return ReplayShape(bucket, sizes, Layout.of(self.signature.inputs, sizes))
