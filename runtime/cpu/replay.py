"""Replay by direct calls: on a CPU a graph runs every size equally well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from precast.graphs.signature import Signature
from precast.runtime.cpu.buffers import StaticBuffers
from precast.runtime.cpu.thread_pool import ThreadPool
from precast.runtime.replay import CaptureInfo, Graph, HostBuffers


@dataclass(frozen=True)
class Done:
    """A launch that finished before ``launch`` returned."""

    outputs: list[Tensor]

    def result(self) -> list[Tensor]:
        return self.outputs


class DirectReplay:
    """Implements ``Replay`` on a CPU: calls a graph at a batch's own sizes, or at the smallest traced ones.

    Args:
        signature: Signature of the graph.
        graph: The loaded graph, which computes synchronously.
        threads: The threads that compute; by default those of the calling thread.
    """

    depth = 1
    captures: tuple[CaptureInfo, ...] = ()

    def __init__(self, signature: Signature, graph: Graph, threads: ThreadPool | None = None) -> None:
        self.signature = signature
        self._buffers = StaticBuffers(signature)
        self._graph: Graph | None = graph
        self._threads = threads

    def prepare(self) -> None:
        if self._threads is not None:
            self._threads.resume()

    @property
    def idle_timeout(self) -> float | None:
        return None if self._threads is None else self._threads.idle_timeout

    def suspend(self) -> None:
        if self._threads is not None:
            self._threads.suspend()

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
