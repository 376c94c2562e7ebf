"""Idle thread pools release their threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from precast.runtime.cpu.thread_pool import IDLE_TIMEOUT

PROGRAM = '''
import os, threading, time
import torch
from precast.runtime.cpu.thread_pool import ThreadPool

CORES = len(os.sched_getaffinity(0))
matrix = torch.eye(512)
ended = threading.Event()

def count_threads():
    return len(os.listdir("/proc/self/task"))

def wait_for(expected):
    """Threads start and end asynchronously: wait for the expected number."""
    end = time.monotonic() + 60
    while count_threads() != expected and time.monotonic() < end:
        time.sleep(0.01)
    return count_threads() == expected

def engine(ready, suspends):
    pool = ThreadPool(CORES)
    pool.resume()
    computed = torch.equal(matrix @ matrix, matrix)
    idle_timeouts.append(pool.idle_timeout)
    if suspends:
        pool.suspend()
        computed &= torch.equal(matrix @ matrix, matrix)  # the threads start again
        pool.suspend()
    if not computed:
        os._exit(1)
    ready.set()
    ended.wait()

torch.set_num_threads(1)
matrix @ matrix  # torch's first call starts threads of its own
idle_timeouts, counts = [], []
before = count_threads()
for suspends in (False, True):
    ready = threading.Event()
    threading.Thread(target=engine, args=(ready, suspends), daemon=True).start()
    ready.wait()
    before += 1 if suspends else CORES
    counts.append(wait_for(before))
print(*idle_timeouts, *counts)
ended.set()
'''

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="reads the threads of a process from /proc; a pool has at least two",
)


def test_a_suspended_pool_ends_its_threads_and_is_suspended_sooner_if_threads_exceed_the_cores() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    alone, crowded, kept, ended = done.stdout.split()
    assert float(alone) == IDLE_TIMEOUT and float(crowded) == 0
    assert (kept, ended) == ("True", "True"), "the pool has another number of threads than expected"
