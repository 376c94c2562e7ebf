"""What a captured replay asks of a device: memory, streams, events, copies, graphs.

Work is put on a stream and done later, in the order of that stream. Streams know nothing of each other
but through events: ``record`` marks a point in one stream, ``wait`` makes another stream wait for it,
``synchronize`` the caller. As CUDA has it, ``wait`` and ``synchronize`` are for the latest ``record``, and
return immediately if there was none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor

Stream: TypeAlias = Any
"""A queue of work. Only the device that made it looks inside."""
CapturedGraph: TypeAlias = Any
"""Work that was recorded instead of done, with the addresses that it reads and writes."""
MemPool: TypeAlias = Any
"""Memory that captured graphs share: what one replay leaves there, the next may overwrite."""

T = TypeVar("T")


class Event(Protocol):
    """A point in a stream; reused for later launches."""

    def record(self, stream: Stream) -> None: ...

    def wait(self, stream: Stream) -> None:
        """Let ``stream`` wait; the caller goes on."""
        ...

    def synchronize(self) -> None:
        """Wait here, without the interpreter lock."""
        ...

    def query(self) -> bool:
        """Whether ``synchronize`` would return immediately."""
        ...


class Device(Protocol):
    """One device, used by one thread. Any call may raise, also for work that was put on a stream before."""

    def open(self) -> None:
        """Make this the device of the calling thread, and let all work that others gave it come to an end."""
        ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def pool(self) -> MemPool: ...

    def memory(self, size: int) -> Tensor:
        """uint8 ``[size]`` on the device, its address a multiple of 256."""
        ...

    def host_memory(self, size: int) -> Tensor:
        """uint8 ``[size]`` on the host, page-locked, so that copies from and to it are asynchronous."""
        ...

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        """Put a copy on ``stream``. Both are contiguous and of one dtype and shape; read when it is done."""
        ...

    def scatter(self, target: Tensor, index: Tensor, source: Tensor, stream: Stream) -> None:
        """Put ``target[index] = source`` on ``stream``: ``[n]``, int64 ``[k]``, ``[k]``."""
        ...

    def run(self, work: Callable[[], T], stream: Stream) -> T:
        """Call ``work`` with ``stream`` as its current one: kernels are put there, memory belongs to it."""
        ...

    def capture(self, work: Callable[[], T], stream: Stream, pool: MemPool) -> tuple[CapturedGraph, T]:
        """Call ``work`` and record its kernels instead of running them; it allocates from ``pool``."""
        ...

    def replay(self, graph: CapturedGraph, stream: Stream) -> None: ...

    def memory_bytes(self) -> tuple[int, int]:
        """Free memory of the device, and its total memory, in bytes."""
        ...

    def reserved_bytes(self) -> int:
        """Device memory that is taken, in use or kept for later use."""
        ...

    def trim(self) -> None:
        """Give back what is kept for later use."""
        ...

    def synchronize(self) -> None:
        """Wait until all work is done."""
        ...
