"""glibc keeps freed memory, unless the environment configures malloc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from precast.runtime.cpu import allocator
from precast.runtime.cpu.allocator import keep_freed_memory

PROGRAM = """
import ctypes, resource, runpy, sys, threading
if sys.argv[1] == "kept":
    assert runpy.run_path(sys.argv[2])["keep_freed_memory"]()

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def touch(*sizes):
    parts = [library.malloc(size << 20) for size in sizes]
    for part, size in zip(parts, sizes):
        ctypes.memset(part, 1, size << 20)
    while parts:
        library.free(parts.pop())

def work():
    touch(10)  # adapts glibc's threshold: by default it now keeps up to twice as much
    touch(9, 9, 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch(9, 9, 9)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)  # like an engine's thread, it has its own heap in glibc
thread.start()
thread.join()
"""
GLIBC = platform.libc_ver()[0] == "glibc"


def page_faults(kind: str) -> int:
    """Return page faults in a process without torch, whose allocations would interfere."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, allocator.__file__],
        capture_output=True,
        text=True,
        check=True,
        env=without_settings(),
    )
    return int(done.stdout)


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}


@pytest.mark.skipif(not GLIBC, reason="another C library has an allocator of its own")
def test_memory_is_kept_for_the_next_call() -> None:
    assert page_faults("kept") < 100 < 1000 < page_faults("as it is")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "1"),
        ("MALLOC_MMAP_MAX_", "0"),
        ("GLIBC_TUNABLES", "glibc.malloc.top_pad=1"),
    ],
)
def test_a_users_own_settings_stay(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
