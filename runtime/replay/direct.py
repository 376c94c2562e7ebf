"""Replay by a direct call: on a CPU a graph runs every size equally well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from precast.graphs.signature import Signature
from precast.runtime.replay.buffers import StaticBuffers
from precast.runtime.replay.interface import CaptureInfo, Graph, HostBuffers


@dataclass(frozen=True)
class Done:
    """A launch that was over when it returned."""

    outputs: list[Tensor]

    def result(self) -> list[Tensor]:
        return self.outputs


class DirectReplay:
    """Calls a loaded graph at a batch's own sizes, never below what it was traced for.

    Args:
        signature: of the graph.
        graph: computes before it returns.
        num_threads: of the graph's kernels; the thread's own number where left out.
    """

    depth = 1
    captures: tuple[CaptureInfo, ...] = ()

    def __init__(self, signature: Signature, graph: Graph, num_threads: int | None = None) -> None:
        self.signature = signature
        self._buffers = StaticBuffers(signature)
        self._graph: Graph | None = graph
        self._num_threads = num_threads

    def prepare(self) -> None:
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)

    def buffers_for(self, needed: Mapping[str, int]) -> HostBuffers:
        sizes = {axis.name: max(axis.minimum, needed[axis.name]) for axis in self.signature.axes}
        return HostBuffers(sizes, self._buffers.arrays(sizes))

    def launch(self, buffers: HostBuffers) -> Done:
        if self._graph is None:
            raise RuntimeError("this replay was closed")
        inputs = self._buffers.front(buffers.sizes)
        self.signature.check(inputs, buffers.sizes)
        outputs = self._graph(inputs)
        self.signature.check_outputs(outputs, buffers.sizes)
        return Done(outputs)

    def close(self) -> None:
        self._graph = None
