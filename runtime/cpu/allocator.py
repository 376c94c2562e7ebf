"""Makes glibc keep freed memory for the next batch.

A compiled graph allocates its intermediate results in every call. By default glibc returns large blocks to
the system when they are freed, so each page of the next allocation is a page fault. Its thresholds also adapt
to earlier frees, so processes differ.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
_KEPT = 1 << 30
"""Free bytes at the end of a heap that glibc keeps."""
_LARGEST = 32 << 20
"""Size in bytes from which allocations bypass the heap; the largest that glibc accepts."""
_SETTINGS = frozenset(
    {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"}
)


def keep_freed_memory() -> bool:
    """Make glibc keep up to 1 GiB of freed memory in this process. Idempotent.

    Returns:
        Whether glibc was configured; False for another C library, or if the environment configures
        ``malloc`` itself.
    """
    configured = _SETTINGS & os.environ.keys() or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if configured or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
