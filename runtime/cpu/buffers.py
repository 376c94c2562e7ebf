"""Static input buffers, allocated once at a graph's largest sizes and filled in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from precast.graphs.signature import Signature


class StaticBuffers:
    """A tensor for each input of ``signature``, with a numpy view of the same memory.

    All inputs of an ``encode`` graph have one dimension, so a smaller batch is a prefix of a buffer.
    """

    def __init__(self, signature: Signature) -> None:
        largest = {axis.name: axis.maximum for axis in signature.axes}
        self._inputs = signature.inputs
        self._tensors = {
            buffer.name: zeros(buffer.sizes(largest), buffer.torch_dtype) for buffer in signature.inputs
        }
        self._arrays: dict[str, np.ndarray] = {name: t.numpy() for name, t in self._tensors.items()}

    def front(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Return each buffer truncated to ``sizes``, in the order of the signature, without a copy."""
        return {buffer.name: self._tensors[buffer.name][: buffer.sizes(sizes)[0]] for buffer in self._inputs}

    def arrays(self, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return numpy views of the same memory."""
        return {buffer.name: self._arrays[buffer.name][: buffer.sizes(sizes)[0]] for buffer in self._inputs}


def zeros(size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor of zeros, whose pages are allocated when they are first written.

    torch.zeros would write all of it, and start OpenMP threads in the calling thread if it is large. Together
    with the engine's threads those would exceed the cores, and then OpenMP lets idle threads sleep, whose
    wake-up is slow compared to a step of a small model. For the same reason nothing else computes with torch
    during loading.
    """
    memory = torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8))
    return memory.view(dtype).view(size)
