"""What the engines ask of a graph, whatever runs it."""

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
    """Host memory for the inputs of one launch: each array has exactly the shape that ``sizes`` give it."""

    sizes: Mapping[str, int]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CaptureInfo:
    """What capturing the graph of one bucket took.

    ``bytes`` is by how much the memory that torch holds on the device grew. Buckets share one pool, so
    the largest accounts for nearly all; what the driver keeps for itself is not in it.
    """

    bucket: int
    seconds: float
    bytes: int


class Pending(Protocol):
    """A launch whose answer may not be there yet."""

    def result(self) -> list[Tensor]:
        """Wait, then give the outputs: host tensors, at least the rows that were needed.

        They hold until the next ``buffers_for`` but ``depth - 1``: the memory is used in turns.

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
        """Seconds without work after which to ``rest``; None for never."""
        ...

    def suspend(self) -> None:
        """Nothing is to be launched for now."""
        ...

    def buffers_for(self, needed: Mapping[str, int]) -> HostBuffers:
        """The buffers of the next launch, at the sizes at which a batch of the ``needed`` sizes runs."""
        ...

    def launch(self, buffers: HostBuffers) -> Pending:
        """Run the graph on what ``buffers_for`` gave last.

        Raises:
            GraphError, SignatureError: this launch failed, later ones may not.
            DeviceFailedError: the device failed: nothing in flight is answered, and nothing later.
        """
        ...

    def close(self) -> None:
        """Let go of the graph and its memory, whatever is in flight. May be called again."""
        ...
