"""The interface between engines and the code that runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from precast.graphs.signature import Signature

Graph = Callable[[Mapping[str, Tensor]], list[Tensor]]
"""A loaded graph: from inputs by name to outputs in the order of its signature."""


@dataclass(frozen=True, eq=False)
class HostBuffers:
    """Host memory for the inputs of one launch.

    Attributes:
        sizes: Size of each axis.
        arrays: The inputs by name, in the shapes that ``sizes`` implies.
    """

    sizes: Mapping[str, int]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CaptureInfo:
    """Time and memory of one graph capture.

    Attributes:
        bucket: The captured bucket.
        seconds: Duration of the capture.
        bytes: Growth of the device memory that torch reserves. Buckets share one memory pool, so the largest
            accounts for nearly all; memory of the driver is not included.
    """

    bucket: int
    seconds: float
    bytes: int


class Pending(Protocol):
    """A launch that may still be in progress."""

    def result(self) -> list[Tensor]:
        """Wait for the outputs and return them as host tensors with at least the needed rows.

        They stay valid until ``buffers_for`` has been called ``depth`` more times: the memory is reused.

        Raises:
            DeviceFailedError: The device failed, in this launch or before it.
        """
        ...


class Replay(Protocol):
    """One graph, ready to be replayed by one thread.

    For each batch the caller gets ``buffers_for`` the needed sizes, fills all of them and calls ``launch``.
    Up to ``depth`` launches may be in flight; then a result must be taken before the next ``buffers_for``.
    All calls come from the thread that called ``prepare``.

    Attributes:
        signature: Signature of the graph.
        depth: Most launches in flight.
        captures: Captured graphs, in the order of their capture.
    """

    signature: Signature
    depth: int
    captures: tuple[CaptureInfo, ...]

    def prepare(self) -> None:
        """Set up thread-local resources; called once, before all other methods."""
        ...

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without work after which to call ``suspend``; None for never."""
        ...

    def suspend(self) -> None:
        """Release threads while there is nothing to launch."""
        ...

    def buffers_for(self, needed: Mapping[str, int]) -> HostBuffers:
        """Return the buffers of the next launch, at the bucket of a batch of the ``needed`` sizes."""
        ...

    def launch(self, buffers: HostBuffers) -> Pending:
        """Run the graph on the buffers that ``buffers_for`` returned last.

        Raises:
            GraphError, SignatureError: This launch failed; later ones may succeed.
            DeviceFailedError: The device failed; launches in flight and later ones fail too.
        """
        ...

    def close(self) -> None:
        """Release the graph and its memory, even with launches in flight. Idempotent."""
        ...
