"""Random numbers that depend only on a sequence's seed and position."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFF_FFFF
_STEPS = 1 << 23
"""Distance of neighbours: large enough for a number below 1 times a sum to stay below the sum in fp32."""


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """Return fp32 numbers in ``[0, 1)`` for pairs of int64 ``seed`` and ``position``, both not negative."""
    mixed = _mix((position + 0x9E37_79B9) & _MASK)
    mixed = _mix(mixed ^ (seed & _MASK))
    mixed = _mix(mixed ^ ((seed >> 32) & _MASK))
    return (_mix((mixed + position) & _MASK) >> 9).to(torch.float32) / _STEPS


def _mix(x: Tensor) -> Tensor:
    """The finalizer of MurmurHash3: every input bit affects every output bit."""
    x = _times(x ^ (x >> 16), 0x85EB_CA6B)
    x = _times(x ^ (x >> 13), 0xC2B2_AE35)
    return x ^ (x >> 16)


def _times(x: Tensor, factor: int) -> Tensor:
    """The product modulo 2**32, in halves, since a whole one would not fit 63 bits."""
    return ((x & 0xFFFF) * factor + ((((x >> 16) * factor) & 0xFFFF) << 16)) & _MASK
