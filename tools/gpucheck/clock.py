"""Device times and device memory; a rehearsal uses the CPU as the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Work = Callable[[], object]


class Clock(Protocol):
    """Measures times and memory of a device."""

    def device_seconds(self, works: Sequence[Work], rounds: int, warmup: int = 3) -> list[float]:
        """Return device seconds of each call, from the start of its first kernel to the end of its last.

        Args:
            works: functions, called alternately. Several functions with separate memory avoid cache hits.
            rounds: number of measured calls.
            warmup: number of calls before them.
        """
        ...

    def graph(self, work: Work) -> Work:
        """Capture a function as a CUDA graph and return its replay; on a CPU return the function itself."""
        ...

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        ...

    def reserved_bytes(self) -> int:
        """Return the bytes of device memory that torch has reserved."""
        ...


class CudaClock:
    """The clock of a CUDA device, based on events."""

    def device_seconds(self, works: Sequence[Work], rounds: int, warmup: int = 3) -> list[float]:
        pairs = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(rounds)
        ]
        for at in range(warmup):
            works[at % len(works)]()
        torch.cuda.synchronize()
        for at, (start, end) in enumerate(pairs):
            start.record()
            works[at % len(works)]()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def graph(self, work: Work) -> Work:
        torch.cuda.synchronize()  # another stream may still be writing the inputs
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            work()
        return graph.replay

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def reserved_bytes(self) -> int:
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()


class HostClock:
    """The clock of a CPU, where work is done when a call returns."""

    def device_seconds(self, works: Sequence[Work], rounds: int, warmup: int = 3) -> list[float]:
        for at in range(warmup):
            works[at % len(works)]()
        return host_seconds(works, rounds)

    def graph(self, work: Work) -> Work:
        return work

    def synchronize(self) -> None:
        pass

    def reserved_bytes(self) -> int:
        return 0


def clock_of(device: str) -> Clock:
    """Return the clock of a device."""
    return HostClock() if device == "cpu" else CudaClock()


def host_seconds(works: Sequence[Work], rounds: int) -> list[float]:
    """Return the seconds from each call to its return, as the caller sees them."""
    seconds = []
    for at in range(rounds):
        started = time.perf_counter()
        works[at % len(works)]()
        seconds.append(time.perf_counter() - started)
    return seconds


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return statistics.median(seconds) * 1e3
