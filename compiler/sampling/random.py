"""Random numbers that depend on a request's seed and a row's position, and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFF_FFFF
_STEPS = 1 << 23
"""Numbers below 1 that are far enough apart for a product with a sum of probabilities to stay below it."""


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """fp32 in ``[0, 1)``, one for each pair of int64 ``seed`` and ``position``, both not negative."""
    mixed = _mix((position + 0x9E37_79B9) & _MASK)
    mixed = _mix(mixed ^ (seed & _MASK))
    mixed = _mix(mixed ^ ((seed >> 32) & _MASK))
    return (_mix((mixed + position) & _MASK) >> 9).to(torch.float32) / _STEPS


def _mix(x: Tensor) -> Tensor:
    """The finalizer of MurmurHash3: every bit of a 32-bit number moves every other."""
    x = _times(x ^ (x >> 16), 0x85EB_CA6B)
    x = _times(x ^ (x >> 13), 0xC2B2_AE35)
    return x ^ (x >> 16)


def _times(x: Tensor, factor: int) -> Tensor:
    """The product modulo 2**32, in halves, since a whole one would not fit 63 bits."""
    return ((x & 0xFFFF) * factor + ((((x >> 16) * factor) & 0xFFFF) << 16)) & _MASK
