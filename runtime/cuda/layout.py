"""Where the buffers of a launch lie in one block of memory, so that one copy moves them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from precast.graphs.signature import Buffer

ALIGNMENT = 256
"""Bytes. Compiled graphs rely on 16; 256 is what a CUDA allocation has."""


@dataclass(frozen=True)
class Field:
    """One buffer: ``offset`` bytes from the start of the block, contiguous."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def view(self, block: Tensor) -> Tensor:
        return block[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """Buffers one after another, each aligned, in the order of their signature."""

    fields: tuple[Field, ...]
    nbytes: int

    @classmethod
    def of(cls, buffers: Sequence[Buffer], sizes: Mapping[str, int]) -> Layout:
        """The layout of ``buffers`` with every axis at its size."""
        fields: list[Field] = []
        end = 0
        for buffer in buffers:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            fields.append(Field(buffer.name, buffer.torch_dtype, buffer.sizes(sizes), start))
            end = start + fields[-1].nbytes
        return cls(tuple(fields), end)

    def tensors(self, block: Tensor) -> dict[str, Tensor]:
        """The buffers inside ``block``, uint8 ``[nbytes]`` or longer."""
        return {field.name: field.view(block) for field in self.fields}

    def arrays(self, block: Tensor) -> dict[str, np.ndarray]:
        """The same for a block on the host, to be written through numpy."""
        return {name: tensor.numpy() for name, tensor in self.tensors(block).items()}
