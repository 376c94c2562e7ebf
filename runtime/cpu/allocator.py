"""Memory that the C library keeps for the next batch.

A compiled graph allocates its intermediate results anew in every call. glibc gives large ones back to the
system at once, and each page of the next ones is then a fault that the kernel answers with zeros. Its limits
move with what was freed before, so that processes differ.
"""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""
_KEPT = 1 << 30
"""Free bytes at the end of a heap beyond which glibc gives them back."""
_LARGEST = 32 << 20
"""Bytes from which on an allocation goes past the heap; glibc takes no more."""
_SETTINGS = frozenset(
    {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_"}
)


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of what is freed, in the whole process. May be called again.

    Returns:
        Whether it does: not where there is another C library, nor where the environment has settings of its
        own for ``malloc``.
    """
    configured = _SETTINGS & os.environ.keys() or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if configured or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
