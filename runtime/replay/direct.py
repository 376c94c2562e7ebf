"""Replay by a direct call: on a CPU a graph runs every size equally well."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from precast.graphs.signature import Signature
from precast.runtime.replay.buffers import StaticBuffers

Graph = Callable[[Mapping[str, Tensor]], list[Tensor]]


class DirectReplay:
    """Calls a loaded graph at a batch's own sizes, never below what it was traced for."""

    def __init__(self, signature: Signature, graph: Graph) -> None:
        self.signature = signature
        self.buffers = StaticBuffers(signature)
        self._graph: Graph | None = graph

    def sizes(self, needed: Mapping[str, int]) -> dict[str, int]:
        return {axis.name: max(axis.minimum, needed[axis.name]) for axis in self.signature.axes}

    def run(self, sizes: Mapping[str, int]) -> list[Tensor]:
        if self._graph is None:
            raise RuntimeError("this replay was closed")
        inputs = self.buffers.front(sizes)
        self.signature.check(inputs, sizes)
        outputs = self._graph(inputs)
        self.signature.check_outputs(outputs, sizes)
        return outputs

    def close(self) -> None:
        self._graph = None
