"""A drawn call of a kernel, its answer in fp64, and how far apart the two are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ALLOWED = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest ``|out - ref| / |ref|`` over a whole output."""
EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
"""Lengths on both sides of every tile."""
HEAD_SIZES = (32, 40, 48, 64, 72, 80, 96, 100, 128, 160, 192, 256, 1, 7, 17)
FEW_HEAD_SIZES = (16, 7, 32)
"""For Triton's interpreter, which is slow."""


@dataclass(frozen=True)
class Sizes:
    cases: int
    """Drawn in each part."""
    tokens: int
    """Of one case at most."""
    seconds: float
    """After which no further case is begun."""


@dataclass(frozen=True)
class Case:
    """One drawn call of a kernel."""

    what: str
    dtype: torch.dtype
    call: Callable[[], Tensor]
    reference: Callable[[], Tensor]


CaseMaker = Callable[[np.random.Generator, np.random.Generator, Sizes, str], Case]
"""From what stays for ``REPEATS`` cases and what changes in each, sizes and the device."""


def error_of(case: Case) -> float:
    """``|out - ref| / |ref|``; infinite for a number that is none, or that nobody wrote."""
    with poisoned():
        found = case.call()
    expected = case.reference()
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    difference = float(torch.linalg.vector_norm(found.double() - expected))
    return difference / max(float(torch.linalg.vector_norm(expected)), 1e-30) if difference else 0.0


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN: an output that the kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def random_lengths(random: np.random.Generator, most: int) -> list[int]:
    """Ragged: edges of tiles, empty sequences, anything between."""
    lengths: list[int] = []
    while sum(lengths) < most:
        kind = random.random()
        if kind < 0.2:
            lengths.append(0)
        elif kind < 0.6:
            lengths.append(int(random.choice(EDGES)))
        else:
            lengths.append(int(random.integers(1, max(2, most // 2))))
        if random.random() < 0.15:
            break
    while sum(lengths) > most:
        lengths.pop()
    return lengths if sum(lengths) else [min(most, 5)]


def random_dtype(random: np.random.Generator, device: str) -> torch.dtype:
    """Triton's interpreter, which is what a CPU has, gets bf16 wrong."""
    return list(ALLOWED)[int(random.integers(2 if device == "cpu" else 3))]


def random_head_dim(random: np.random.Generator, device: str) -> int:
    return int(random.choice(HEAD_SIZES if device != "cpu" else FEW_HEAD_SIZES))
