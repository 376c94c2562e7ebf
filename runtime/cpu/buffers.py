"""Static input buffers: allocated once at a graph's largest sizes, filled in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from precast.graphs.signature import Signature


class StaticBuffers:
    """One tensor for each input of ``signature``, and a numpy view of the same memory to write through.

    All inputs of an ``encode`` graph have one dimension, so a smaller batch is the front of a buffer.
    """

    def __init__(self, signature: Signature) -> None:
        largest = {axis.name: axis.maximum for axis in signature.axes}
        self._inputs = signature.inputs
        self._tensors = {
            buffer.name: zeros(buffer.sizes(largest), buffer.torch_dtype) for buffer in signature.inputs
        }
        self._arrays: dict[str, np.ndarray] = {name: t.numpy() for name, t in self._tensors.items()}

    def front(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Each buffer up to ``sizes``, in the order of the signature, without a copy."""
        return {buffer.name: self._tensors[buffer.name][: buffer.sizes(sizes)[0]] for buffer in self._inputs}

    def arrays(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """The same memory to write through."""
        return {buffer.name: self._arrays[buffer.name][: buffer.sizes(sizes)[0]] for buffer in self._inputs}


def zeros(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory that is taken page by page when it is first written to.

    torch.zeros would write to all of it, and where it is large start a pool of threads for this thread.
    Beside the engine's threads they are more than there are cores; OpenMP then lets waiting threads sleep,
    and waking them is slow beside a step of a small model. Nothing else in loading computes with torch
    either.
    """
    memory = torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8))
    return memory.view(dtype).view(size)
