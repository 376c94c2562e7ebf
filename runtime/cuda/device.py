"""The device interface of captured replays: memory, streams, events, copies and graphs.

Work is put on a stream and runs asynchronously, in the order of that stream. Events order the work of
different streams: ``record`` marks a point in one stream, ``wait`` makes another stream wait for it, and
``synchronize`` the host. As in CUDA, ``wait`` and ``synchronize`` refer to the latest ``record``, and return
immediately if there was none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor

Stream: TypeAlias = Any
"""A queue of asynchronous work; opaque to all but its device."""
CapturedGraph: TypeAlias = Any
"""Work that was recorded instead of executed, with the addresses that it reads and writes."""
MemPool: TypeAlias = Any
"""Memory that captured graphs share; a replay may overwrite the results of the previous one."""

T = TypeVar("T")


class Event(Protocol):
    """A point in a stream; reused for later launches."""

    def record(self, stream: Stream) -> None:
        """Mark the current end of ``stream``."""
        ...

    def wait(self, stream: Stream) -> None:
        """Make ``stream`` wait for the marked point, without blocking the host."""
        ...

    def synchronize(self) -> None:
        """Block the host until the marked point is reached, without the interpreter lock."""
        ...

    def query(self) -> bool:
        """Return whether the marked point is reached."""
        ...


class Device(Protocol):
    """One device, used by one thread. Any call may raise an error of earlier asynchronous work."""

    def open(self) -> None:
        """Make this the calling thread's current device, and wait until the device is idle."""
        ...

    def stream(self) -> Stream:
        """Return a new stream."""
        ...

    def event(self) -> Event:
        """Return a new event."""
        ...

    def pool(self) -> MemPool:
        """Return a new memory pool for captured graphs."""
        ...

    def memory(self, size: int) -> Tensor:
        """Return uint8 ``[size]`` on the device, its address a multiple of 256."""
        ...

    def host_memory(self, size: int) -> Tensor:
        """Return uint8 ``[size]`` on the host, page-locked so that copies are asynchronous."""
        ...

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Put a copy on ``stream``. Both tensors are contiguous, of the same dtype and shape."""
        ...

    def scatter(self, target: Tensor, index: Tensor, source: Tensor, stream: Stream) -> None:
        """Put ``target[index] = source`` on ``stream``; shapes are ``[n]``, int64 ``[k]`` and ``[k]``."""
        ...

    def run(self, work: Callable[[], T], stream: Stream) -> T:
        """Call ``work`` with ``stream`` as the current stream, and return its result."""
        ...

    def capture(self, work: Callable[[], T], stream: Stream, pool: MemPool) -> tuple[CapturedGraph, T]:
        """Call ``work``, which allocates from ``pool``, and record its kernels instead of running them."""
        ...

    def replay(self, graph: CapturedGraph, stream: Stream) -> None:
        """Put the work of a captured graph on ``stream``."""
        ...

    def memory_bytes(self) -> tuple[int, int]:
        """Return the free and the total memory of the device in bytes."""
        ...

    def reserved_bytes(self) -> int:
        """Return the bytes of device memory that the allocator holds, in use or cached."""
        ...

    def trim(self) -> None:
        """Release cached memory."""
        ...

    def synchronize(self) -> None:
        """Wait until all work has finished."""
        ...
