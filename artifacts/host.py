"""Properties of this machine that compiled graphs depend on."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch

# Instruction sets that a C++ compiler may use with -march=native, without the flags of the operating system.
_INSTRUCTIONS = re.compile(
    r"^(sse|ssse|avx|amx|fma|f16c|bmi|abm|adx|aes|vaes|sha_ni|gfni|movbe|popcnt|lzcnt|vpclmulqdq|"
    r"pclmulqdq|asimd|sve|i8mm|bf16|fphp|neon)"
)


def torch_release() -> str:
    """Return the version of torch without its build tag, such as ``2.13.0``."""
    return torch.__version__.split("+")[0]


def cuda_release() -> str | None:
    """Return the CUDA release that torch was built with, such as ``13.0``; None for a CPU build."""
    return torch.version.cuda


def compute_capability(index: int = 0) -> tuple[int, int] | None:
    """Return the compute capability of a CUDA device, such as ``(9, 0)``; None if there is no such device."""
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    return torch.cuda.get_device_capability(index)


def architecture() -> str:
    """Return the processor architecture, such as ``x86_64`` or ``aarch64``."""
    return platform.machine()


@cache
def instruction_sets() -> frozenset[str]:
    """Return the instruction sets of this processor, by the names that Linux uses; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(flag for flag in value.split() if _INSTRUCTIONS.match(flag))
    return frozenset()
