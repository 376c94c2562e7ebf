"""Teams of threads that have nothing to do."""

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

def threads():
    """Those that leave may take a moment to end."""
    time.sleep(0.3)
    return len(os.listdir("/proc/self/task"))

def engine(ready, rests):
    threads = ThreadPool(CORES)
    threads.resume()
    computed = torch.equal(matrix @ matrix, matrix)
    max_batch_delay_steps.append(threads.idle_timeout)
    if rests:
        threads.suspend()
        computed &= torch.equal(matrix @ matrix, matrix)  # it comes again
        threads.suspend()
    if not computed:
        os._exit(1)
    ready.set()
    ended.wait()

torch.set_num_threads(1)
matrix @ matrix  # what torch begins once
max_batch_delay_steps, found = [], []
for rests in (False, True):
    before, ready = threads(), threading.Event()
    threading.Thread(target=engine, args=(ready, rests), daemon=True).start()
    ready.wait()
    found.append(threads() - before)
print(*max_batch_delay_steps, found[0] - found[1], CORES - 1)
ended.set()
'''

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists() or len(os.sched_getaffinity(0)) < 2,
    reason="counts threads as Linux lists them; a threads is at least two",
)


def test_a_team_leaves_when_it_rests_and_sooner_where_threads_are_more_than_cores() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    alone, crowded, left, begun = done.stdout.split()
    assert float(alone) == IDLE_TIMEOUT and float(crowded) == 0
    assert left == begun
