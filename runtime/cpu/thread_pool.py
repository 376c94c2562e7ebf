"""The OpenMP threads that compute a graph on a CPU: their number, their cores, and their release when idle.

libgomp's threads spin while they wait for work. Once a process has more of them than cores, they sleep
immediately instead, and every parallel loop has to wake them up. A decoder's steps, with dozens of short
loops, then become far slower, even if the other engine is idle. So an idle engine releases its threads.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch

IDLE_TIMEOUT = 0.1
"""Seconds without work after which an engine releases its threads; shorter gaps find them spinning."""
_PAUSE_SOFT = 1
"""OpenMP's ``omp_pause_soft``: threads end, settings are kept."""

_lock = threading.Lock()
_sizes: WeakKeyDictionary[threading.Thread, int] = WeakKeyDictionary()
"""Sizes of the process's thread pools, by the thread that owns each."""


@dataclass(frozen=True)
class ThreadPool:
    """The OpenMP threads of one engine.

    Attributes:
        size: Number of threads, the engine's own thread included.
        cores: Cores that they may run on; None for any.
    """

    size: int
    cores: tuple[int, ...] | None = None

    def resume(self) -> None:
        """Configure the calling thread before it computes; its OpenMP threads inherit the settings."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)  # 0: this thread alone
        torch.set_num_threads(self.size)
        with _lock:
            _sizes[threading.current_thread()] = self.size

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without work after which to ``suspend``: 0 if threads exceed the cores; None for never."""
        if self.size == 1:
            return None
        return 0.0 if _crowded() else IDLE_TIMEOUT

    def suspend(self) -> None:
        """End the OpenMP threads of the calling thread, which must be the one that called ``resume``.

        Its next parallel loop creates them again, in about the time that it takes to wake one up.
        """
        _pause()(_PAUSE_SOFT)


def thread_pool_for(num_threads: int | None, cores: Sequence[int] | None) -> ThreadPool:
    """Return a pool of ``num_threads`` threads; by default one for each of ``cores``, or torch's number."""
    size = num_threads or (len(cores) if cores is not None else torch.get_num_threads())
    return ThreadPool(size, None if cores is None else tuple(cores))


def _crowded() -> bool:
    """Return whether all pools have more threads than there are cores, as libgomp counts them.

    It counts the main thread, and the threads that each pool started.
    """
    with _lock:
        started = sum(size - 1 for thread, size in _sizes.items() if thread.is_alive())
    return 1 + started > _cores()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(os.getpid()))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


@cache
def _pause() -> Callable[[int], int]:
    """Return libgomp's function that ends the calling thread's threads, or a no-op without libgomp."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL("libgomp.so.1").omp_pause_resource_all
    except (OSError, AttributeError):
        return lambda _: 0
    return pause
