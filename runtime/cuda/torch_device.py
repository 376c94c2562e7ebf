"""The device protocol on ``torch.cuda``."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from precast.runtime.cuda.device import CapturedGraph, Event, MemPool, Stream

T = TypeVar("T")


class CudaDevice:
    """One CUDA device.

    Args:
        index: of the device, as CUDA counts those that the process sees.
    """

    def __init__(self, index: int) -> None:
        self._device = torch.device("cuda", index)

    def open(self) -> None:
        torch.cuda.set_device(self._device)
        torch.cuda.synchronize(self._device)

    def stream(self) -> Stream:
        return torch.cuda.Stream(self._device)

    def event(self) -> Event:
        return torch.cuda.Event(enable_timing=False, blocking=False)

    def pool(self) -> MemPool:
        return torch.cuda.graph_pool_handle()

    def memory(self, size: int) -> Tensor:
        found = torch.empty(size, dtype=torch.uint8, device=self._device)
        # torch may hand out memory that work of others on this thread's stream still reads or writes.
        torch.cuda.synchronize(self._device)
        return found

    def host_memory(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor, stream: Stream) -> None:
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def scatter(self, target: Tensor, index: Tensor, source: Tensor, stream: Stream) -> None:
        with torch.cuda.stream(stream):
            target.index_copy_(0, index, source)

    def run(self, work: Callable[[], T], stream: Stream) -> T:
        with torch.cuda.stream(stream):
            return work()

    def capture(self, work: Callable[[], T], stream: Stream, pool: MemPool) -> tuple[CapturedGraph, T]:
        # torch.cuda.graph() also collects garbage and empties the allocator's cache, for every capture.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream), _no_garbage_collection():
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                found = work()
            finally:
                graph.capture_end()
        return graph, found

    def replay(self, graph: CapturedGraph, stream: Stream) -> None:
        with torch.cuda.stream(stream):
            graph.replay()

    def memory_bytes(self) -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(self._device)
        return free, total

    def reserved_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device)

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is collected may free device memory of its own, and this thread must not while it captures."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
