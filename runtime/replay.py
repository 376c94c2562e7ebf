"""The interface between engines and the code that runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from precast.graphs.signature import Signature

Graph = Callable[[Mapping[str, Tensor]], list[Tensor]]
"""A loaded graph: its inputs by name, its outputs in the order of its signature."""


@dataclass(frozen=True, eq=False)
class HostBuffers:
    """Host memory for the inputs of one launch: each array has the shape that ``sizes`` says."""

    sizes: Mapping[str, int]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CaptureInfo:
    """Time and memory that capturing the graph of one bucket took.

    ``bytes`` is the growth of the memory that torch holds on the device. Buckets share one memory pool, so
    the largest accounts for nearly all; memory of the driver is not included.
    """

    bucket: int
    seconds: float
    bytes: int


class Pending(Protocol):
    """A launch whose outputs may not be there yet."""

    def result(self) -> list[Tensor]:
        """Wait for the outputs and return them: host tensors, with at least the rows that were needed.

        They are valid until ``buffers_for`` has been called ``depth`` more times: the memory is reused.

        Raises:
            DeviceFailedError: the device failed, in this launch or before it.
        """
        ...


class Replay(Protocol):
    """One graph, ready to be replayed by one thread.

    For each batch the caller asks ``buffers_for`` the sizes that it needs, fills all of them, and calls
    ``launch``. Up to ``depth`` launches may be in flight; with so many, a result must be taken before
    buffers are asked for again. All calls come from the thread that called ``prepare``.
    """

    signature: Signature
    depth: int
    captures: tuple[CaptureInfo, ...]
    """Of captured graphs, in the order in which they were captured."""

    def prepare(self) -> None:
        """Set up what belongs to the calling thread; called once, before all others."""
        ...

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without work after which to call ``suspend``; None for never."""
        ...

    def suspend(self) -> None:
        """There is nothing to launch for now."""
        ...

    def buffers_for(self, needed: Mapping[str, int]) -> HostBuffers:
        """The buffers of the next launch, at the sizes at which a batch of the ``needed`` sizes runs."""
        ...

    def launch(self, buffers: HostBuffers) -> Pending:
        """Run the graph on what ``buffers_for`` gave last.

        Raises:
            GraphError, SignatureError: this launch failed, later ones may not.
            DeviceFailedError: the device failed: this launch, those in flight and all later ones are lost.
        """
        ...

    def close(self) -> None:
        """Release the graph and its memory, whatever is in flight. May be called again."""
        ...
