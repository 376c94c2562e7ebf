"""What a figure was measured on and with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from precast.artifacts.host import instruction_sets

_NOTABLE = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")


def machine() -> dict[str, object]:
    """Processor, cores, instruction sets that matter, operating system."""
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "instruction_sets": [name for name in _NOTABLE if name in instruction_sets()],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Installed versions; absent packages are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
