"""Times on a device, memory of a device; a CPU stands in for one in rehearsals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Work = Callable[[], object]


class Clock(Protocol):
    """What a device's work takes."""

    def device_seconds(self, works: Sequence[Work], rounds: int, warmup: int = 3) -> list[float]:
        """Seconds that the device spends on each call, from the first kernel's start to the last one's end.

        Args:
            works: called in turns; several, on memory of their own, keep one another out of the cache.
            rounds: calls that count.
            warmup: calls before them that do not.
        """
        ...

    def graph(self, work: Work) -> Work:
        """``work`` captured, so that a call launches it at once; on a CPU ``work`` itself."""
        ...

    def synchronize(self) -> None: ...

    def reserved_bytes(self) -> int:
        """Memory that torch holds on the device."""
        ...


class CudaClock:
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
        torch.cuda.synchronize()  # what ``work`` reads may still be written on another stream
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
    """Everything is done when a call returns."""

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
    return HostClock() if device == "cpu" else CudaClock()


def host_seconds(works: Sequence[Work], rounds: int) -> list[float]:
    """Seconds from a call to its return, as who waits for it sees them."""
    taken = []
    for at in range(rounds):
        started = time.perf_counter()
        works[at % len(works)]()
        taken.append(time.perf_counter() - started)
    return taken


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3
