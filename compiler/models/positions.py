"""Position tables that are computed and not learned, fp32."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from precast.compiler.models.spec import Positions


def sinusoidal_table(positions: Positions, size: int) -> Tensor:
    """``[positions.size, size]``: sines, then cosines, by the formula that ``positions`` names.

    ``halves``: angle ``p / 10000 ** (2 i / size)``, where an odd size has one sine more (HF's Marian and
    Pegasus, in fp64). ``tensor2tensor``: ``p * exp(-i * log(10000) / (size // 2 - 1))``; the row of
    padding is zero, and so is the last number of an odd size.
    """
    if positions.sinusoidal == "halves":
        column = torch.arange(size, dtype=torch.float64, device="cpu")
        exponent = 2 * torch.div(column, 2, rounding_mode="floor") / size
        row = torch.arange(positions.size, dtype=torch.float64, device="cpu")
        angle = row[:, None] / torch.pow(10000.0, exponent)
        return torch.cat((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=1).float()
    half = size // 2
    step = torch.arange(half, dtype=torch.int64, device="cpu").float() * -(math.log(10000) / (half - 1))
    row = torch.arange(positions.size, dtype=torch.int64, device="cpu").float()
    angle = row[:, None] * step.exp()[None, :]
    table = torch.cat((angle.sin(), angle.cos(), torch.zeros(positions.size, size % 2, device="cpu")), dim=1)
    if positions.padding_idx is not None:
        table[positions.padding_idx] = 0
    return table
