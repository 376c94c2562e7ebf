"""What this machine is, as far as compiled graphs care."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch

# Instruction sets that a C++ compiler may use with -march=native; flags of the system are left out.
_INSTRUCTIONS = re.compile(
    r"^(sse|ssse|avx|amx|fma|f16c|bmi|abm|adx|aes|vaes|sha_ni|gfni|movbe|popcnt|lzcnt|vpclmulqdq|"
    r"pclmulqdq|asimd|sve|i8mm|bf16|fphp|neon)"
)


def torch_release() -> str:
    """The version of torch without its build tag: ``2.13.0``."""
    return torch.__version__.split("+")[0]


def cuda_release() -> str | None:
    """The CUDA release that torch was built with, ``13.0``; None for a CPU build."""
    return torch.version.cuda


def compute_capability(index: int = 0) -> tuple[int, int] | None:
    """Of one CUDA device, ``(9, 0)``; None where there is none."""
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    return torch.cuda.get_device_capability(index)


def architecture() -> str:
    """``x86_64``, ``aarch64``, ..."""
    return platform.machine()


@cache
def instruction_sets() -> frozenset[str]:
    """Instruction sets of this processor by Linux' names; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(flag for flag in value.split() if _INSTRUCTIONS.match(flag))
    return frozenset()
