"""A random kernel call, its reference in fp64, and the error between the two."""

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
"""Lengths at and around the edges of tiles."""
HEAD_SIZES = (32, 40, 48, 64, 72, 80, 96, 100, 128, 160, 192, 256, 1, 7, 17)
FEW_HEAD_SIZES = (16, 7, 32)
"""Head sizes for Triton's interpreter, which is slow."""


@dataclass(frozen=True)
class Sizes:
    cases: int
    """Number of cases in each part."""
    tokens: int
    """Maximum tokens of one case."""
    seconds: float
    """Seconds after which no further case starts."""


@dataclass(frozen=True)
class Case:
    """One random kernel call with its reference."""

    what: str
    dtype: torch.dtype
    call: Callable[[], Tensor]
    reference: Callable[[], Tensor]


CaseMaker = Callable[[np.random.Generator, np.random.Generator, Sizes, str], Case]
"""Makes a case from a generator that is fixed for ``REPEATS`` cases, one that changes, sizes and a device."""


def error_of(case: Case) -> float:
    """Return ``|out - ref| / |ref|``; infinite if the output has NaN, infinities or unwritten elements."""
    with poisoned():
        output = case.call()
    expected = case.reference()
    if output.shape != expected.shape or not bool(torch.isfinite(output).all()):
        return float("inf")
    difference = float(torch.linalg.vector_norm(output.double() - expected))
    return difference / max(float(torch.linalg.vector_norm(expected)), 1e-30) if difference else 0.0


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill new memory with NaN, so that elements that a kernel does not write are detected."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def random_lengths(random: np.random.Generator, most: int) -> list[int]:
    """Return ragged lengths: edges of tiles, empty sequences and random values."""
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
    """Return a random dtype; not bf16 on a CPU, where Triton's interpreter computes it incorrectly."""
    return list(ALLOWED)[int(random.integers(2 if device == "cpu" else 3))]


def random_head_dim(random: np.random.Generator, device: str) -> int:
    """Return a random head size."""
    return int(random.choice(HEAD_SIZES if device != "cpu" else FEW_HEAD_SIZES))
