"""The threads that compute a graph on a CPU: how many, on which cores, and when they leave.

libgomp's threads wait for their next piece of work by looking for it again and again. Once a process has
more of them than there are cores, all of them fall asleep at once instead, and every parallel loop wakes them
up: a decoder's steps, with dozens of short loops, become far slower though the other engine does nothing. So
the threads of an engine that has nothing to do leaves.
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
"""Seconds without work after which a threads leaves. Within them most have more to do, and find it awake."""
_PAUSE_SOFT = 1
"""OpenMP's ``omp_pause_soft``: threads end, settings stay."""

_lock = threading.Lock()
_sizes: WeakKeyDictionary[threading.Thread, int] = WeakKeyDictionary()
"""Of the teams of this process, by the thread that each belongs to."""


@dataclass(frozen=True)
class ThreadPool:
    """OpenMP's threads of one engine.

    Attributes:
        size: of the threads, the engine's own thread included.
        cores: that they may run on; None leaves it to the system.
    """

    size: int
    cores: tuple[int, ...] | None = None

    def resume(self) -> None:
        """To be called by the thread that computes, before anything is: its threads inherits what it sets."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)  # 0: this thread alone
        torch.set_num_threads(self.size)
        with _lock:
            _sizes[threading.current_thread()] = self.size

    @property
    def idle_timeout(self) -> float | None:
        """Seconds without work after which to ``rest``: none where others suffer; None for never."""
        if self.size == 1:
            return None
        return 0.0 if _crowded() else IDLE_TIMEOUT

    def suspend(self) -> None:
        """To be called by the same thread when it has nothing to compute.

        Its next parallel loop makes the threads anew, in about the time that it takes to wake one up.
        """
        _pause()(_PAUSE_SOFT)


def thread_pool_for(num_threads: int | None, cores: Sequence[int] | None) -> ThreadPool:
    """A thread for each core where cores are named, else as many as torch would take."""
    size = num_threads or (len(cores) if cores is not None else torch.get_num_threads())
    return ThreadPool(size, None if cores is None else tuple(cores))


def _crowded() -> bool:
    """Whether all teams together have more threads than there are cores, as libgomp counts them.

    It counts the process's first thread, and of each threads those that the threads began.
    """
    with _lock:
        begun = sum(size - 1 for thread, size in _sizes.items() if thread.is_alive())
    return 1 + begun > _cores()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(os.getpid()))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


@cache
def _pause() -> Callable[[int], int]:
    """Ends the threads of the calling thread; nothing where OpenMP is not libgomp."""
    try:
        pause: Callable[[int], int] = ctypes.CDLL("libgomp.so.1").omp_pause_resource_all
    except (OSError, AttributeError):
        return lambda _: 0
    return pause
