"""Graph signatures: named buffers, their shapes in named axes, and the limits of those axes."""

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
"""How the runtime treats a buffer: written before each launch (``input``); constant, counting up from zero,
with a size that tells the graph how far to read (``span``); kept from step to step, one entry per sequence
(``state``); or the memory of keys and values (``kv_cache``)."""


@dataclass(frozen=True)
class Axis:
    """A size that may differ from launch to launch, within limits that are fixed by tracing.

    ``minimum`` is 2 for a symbolic size, because tracing specialises the sizes 0 and 1. A smaller batch
    is filled up with spare tokens and with spare sequences of length zero.
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
    """A named tensor of a graph.

    A dimension is a size, an axis (``"tokens"``) or an axis plus a number (``"sequences+1"``).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: Role = "input"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SignatureError(f"buffer {self.name}: dtype {self.dtype!r} is not one of {sorted(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return DTYPES[self.dtype]

    def sizes(self, axes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for the given sizes of the axes."""
        return tuple(dim if isinstance(dim, int) else _size(dim, axes) for dim in self.shape)


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph, in call order."""

    graph: GraphName
    axes: tuple[Axis, ...]
    """The first one is the axis of the graph's buckets."""
    inputs: tuple[Buffer, ...]
    outputs: tuple[Buffer, ...]
    written: tuple[str, ...]
    """Names of the inputs that the graph modifies in place."""

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
        """Return the axis of that name.

        Raises:
            SignatureError: There is none.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise SignatureError(f"graph {self.graph} has no axis {name!r}; it has {[a.name for a in self.axes]}")

    def check(self, tensors: Mapping[str, torch.Tensor], axes: Mapping[str, int]) -> None:
        """Check every input against its buffer; compiled graphs do not check their inputs.

        Args:
            tensors: The inputs by name.
            axes: The size of each axis by name.

        Raises:
            SignatureError: A size or a tensor is missing, a size is outside the limits of its axis, or a
                tensor has the wrong shape, dtype, layout or alignment.
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
        """Check the outputs of a graph; the runtime slices them by these shapes.

        Raises:
            SignatureError: The number of tensors differs, or the shape or dtype of one of them.
        """
        expected = [(buffer.sizes(axes), buffer.torch_dtype) for buffer in self.outputs]
        actual = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        if actual != expected:
            raise SignatureError(f"graph {self.graph}: expected the outputs {expected}, found {actual}")


@lru_cache
def split_dim(dim: str) -> tuple[str, int]:
    """Split a dimension into its axis and what is added to it: ``"sequences+1"`` is ``("sequences", 1)``.

    Raises:
        SignatureError: The part after the plus is not a number.
    """
    name, plus, extra = dim.partition("+")
    if plus and not (extra.isascii() and extra.isdigit() and len(extra) < 10):
        raise SignatureError(f"a dimension is an axis, or an axis plus a number, found {dim!r}")
    return name, int(extra or 0)


def _size(dim: str, axes: Mapping[str, int]) -> int:
    name, extra = split_dim(dim)
    return axes[name] + extra


def _check_tensor(graph: str, buffer: Buffer, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    actual = (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous(), tensor.data_ptr() % 16 == 0)
    expected = (shape, buffer.torch_dtype, True, True)
    if actual != expected:
        raise SignatureError(
            f"graph {graph}, buffer {buffer.name}: expected shape, dtype, contiguous, 16-byte aligned "
            f"{expected}, found {actual}"
        )
