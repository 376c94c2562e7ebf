"""The machine and the package versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from precast.artifacts.host import instruction_sets

_NOTABLE = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2")
_COPIED_BYTES = 1 << 28
"""Size of one copied buffer; far larger than any CPU cache."""
_MATRIX_SIDE = 2048
_REPEATS = 5


def machine() -> dict[str, object]:
    """Return the processor, the number of cores, the relevant instruction sets and the operating system."""
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "instruction_sets": [name for name in _NOTABLE if name in instruction_sets()],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def measured_rates() -> dict[str, float]:
    """Measure the memory bandwidth in GB/s and the matrix multiplication rates in TFLOP/s.

    The bandwidth is that of a copy, counting bytes read and bytes written. Each figure is the best of a few
    repetitions: the fastest one is disturbed least by other processes.
    """
    import numpy as np
    import torch

    source, target = np.ones(_COPIED_BYTES, np.uint8), np.zeros(_COPIED_BYTES, np.uint8)
    rates = {"memory_gb_per_s": 2 * _COPIED_BYTES / _shortest(partial(np.copyto, target, source)) / 1e9}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.randn(_MATRIX_SIDE, _MATRIX_SIDE).to(dtype) for _ in range(2))
        seconds = _shortest(partial(torch.matmul, left, right))
        rates[f"{name}_tflop_per_s"] = 2 * _MATRIX_SIDE**3 / seconds / 1e12
    return {name: round(rate, 3) for name, rate in rates.items()}


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def _shortest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest call, after one warmup call."""
    work()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
