"""The signature of a graph: its named buffers, their shapes in named axes, and their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from precast.graphs.errors import SignatureError
from precast.graphs.graph_names import GraphName

DTYPES: Mapping[str, torch.dtype] = {
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


Role = Literal["input", "span", "state", "kv_cache"]
"""What a buffer is to the runtime: written anew for each launch (``input``); counting up from a constant, so
that its size says how far to read (``span``); kept from step to step for each sequence (``state``); or the
memory for keys and values (``kv_cache``)."""


@dataclass(frozen=True)
class Axis:
    """A size that changes from replay to replay, within limits that were fixed when tracing.

    ``minimum`` is 2 where a graph was traced with a symbolic size: sizes 0 and 1 are
    specialised by tracing. A smaller batch is filled up with spare tokens and with spare
    sequences of length zero.
    """

    name: str
    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 0 < self.minimum <= self.maximum:
            raise SignatureError(
                f"axis {self.name} needs 0 < minimum <= maximum, found {self.minimum} and {self.maximum}"
            )


@dataclass(frozen=True)
class Buffer:
    """A named tensor of a graph. A dimension is a size, an axis ``"tokens"`` or ``"sequences+1"``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: Role = "input"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SignatureError(f"buffer {self.name}: dtype {self.dtype!r} is none of {sorted(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def sizes(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape once every axis has a size."""
        return tuple(dim if isinstance(dim, int) else _size(dim, axes) for dim in self.shape)


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives, in call order."""

    graph: GraphName
    axes: tuple[Axis, ...]
    """The first is the one that the graph is bucketed by."""
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    written: tuple[str, ...]
    """Inputs that the graph changes in place."""

    def __post_init__(self) -> None:
        names = [buffer.name for buffer in (*self.inputs, *self.outputs)]
        if len(set(names)) != len(names):
            raise SignatureError(f"graph {self.graph}: buffer names repeat in {names}")
        if not set(self.written) <= {buffer.name for buffer in self.inputs}:
            raise SignatureError(f"graph {self.graph} writes {self.written}, not all of which are inputs")
        for buffer in (*self.inputs, *self.outputs):
            for dim in buffer.shape:
                if isinstance(dim, str) and split_dim(dim)[0] not in {axis.name for axis in self.axes}:
                    raise SignatureError(f"graph {self.graph}: {buffer.name} uses an unknown axis {dim!r}")
                if isinstance(dim, int) and dim < 1:
                    raise SignatureError(f"graph {self.graph}: {buffer.name} has a dimension of {dim}")

    def axis(self, name: str) -> Axis:
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise SignatureError(f"graph {self.graph} has no axis {name!r}; it has {[a.name for a in self.axes]}")

    def check(self, tensors: Mapping[str, torch.Tensor], axes: Mapping[str, int]) -> None:
        """Hold every input against its buffer: compiled graphs check nothing themselves.

        Raises:
            SignatureError: a size or a tensor is missing, a size out of an axis' limits, or a tensor of
                another shape, dtype, layout or alignment.
        """
        missing = [axis.name for axis in self.axes if axis.name not in axes]
        missing += [buffer.name for buffer in self.inputs if buffer.name not in tensors]
        if missing:
            raise SignatureError(f"graph {self.graph}: {missing} are missing")
        for axis in self.axes:
            if not axis.minimum <= axes[axis.name] <= axis.maximum:
                raise SignatureError(
                    f"graph {self.graph}: {axes[axis.name]} {axis.name} are outside "
                    f"{axis.minimum} to {axis.maximum}"
                )
        for buffer in self.inputs:
            _check_tensor(self.graph, buffer, tensors[buffer.name], buffer.sizes(axes))

    def check_outputs(self, tensors: Sequence[torch.Tensor], axes: Mapping[str, int]) -> None:
        """Hold what a graph gave against what it promised: its numbers are cut apart by these shapes.

        Raises:
            SignatureError: another number of tensors, or one of another shape or dtype.
        """
        expected = [(buffer.sizes(axes), buffer.torch_dtype) for buffer in self.outputs]
        found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        if found != expected:
            raise SignatureError(f"graph {self.graph}: expected the results {expected}, found {found}")


@lru_cache
def split_dim(dim: str) -> tuple[str, int]:
    """``"sequences+1"`` is ``("sequences", 1)``.

    Raises:
        SignatureError: what follows the plus is no number.
    """
    name, plus, extra = dim.partition("+")
    if plus and not (extra.isascii() and extra.isdigit() and len(extra) < 10):
        raise SignatureError(f"a dimension is an axis, or an axis plus a number, found {dim!r}")
    return name, int(extra or 0)


def _size(dim: str, axes: Mapping[str, int]) -> int:
    name, extra = split_dim(dim)
    return axes[name] + extra


def _check_tensor(graph: str, buffer: Buffer, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    found = (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(), tensor.data_ptr() % 16 == 0)
    expected = (shape, buffer.torch_dtype, True, True)
    if found != expected:
        raise SignatureError(
            f"graph {graph}, buffer {buffer.name}: expected shape, dtype, contiguous, 16-byte aligned "
            f"{expected}, found {found}"
        )
