"""Layout of a launch's buffers in one block of memory, so that a single copy moves all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from precast.graphs.signature import Buffer

ALIGNMENT = 256
"""Alignment of each buffer in bytes. Compiled graphs need 16; CUDA allocations have 256."""


@dataclass(frozen=True)
class Field:
    """A contiguous buffer, ``offset`` bytes from the start of the block."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size of the buffer in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def view(self, block: Tensor) -> Tensor:
        """Return the buffer inside ``block``, uint8."""
        return block[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """Consecutive aligned buffers, in the order of their signature."""

    fields: tuple[Field, ...]
    nbytes: int

    @classmethod
    def of(cls, buffers: Sequence[Buffer], sizes: Mapping[str, int]) -> Layout:
        """Return the layout of ``buffers`` for the given sizes of the axes."""
        fields: list[Field] = []
        end = 0
        for buffer in buffers:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            fields.append(Field(buffer.name, buffer.torch_dtype, buffer.sizes(sizes), start))
            end = start + fields[-1].nbytes
        return cls(tuple(fields), end)

    def tensors(self, block: Tensor) -> dict[str, Tensor]:
        """Return the buffers inside ``block``, uint8 ``[nbytes]`` or longer."""
        return {field.name: field.view(block) for field in self.fields}

    def arrays(self, block: Tensor) -> dict[str, np.ndarray]:
        """Return the buffers inside a block on the host as numpy views."""
        return {name: tensor.numpy() for name, tensor in self.tensors(block).items()}
