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
    """Implements ``Device`` for one CUDA device.

    Args:
        index: Index among the devices that are visible to the process.
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
        memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        # torch may return memory that earlier work on this thread's current stream still uses.
        torch.cuda.synchronize(self._device)
        return memory

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
                result = work()
            finally:
                graph.capture_end()
        return graph, result

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
    """Disable garbage collection: freeing device memory is not allowed during a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
