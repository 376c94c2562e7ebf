"""The graphs of a batch descriptor, bound to their inputs: called one by one, or captured as one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import NGRAM, VOCAB
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.cuda.device import CapturedGraph, Device, MemPool, Stream
from precast.runtime.cuda.layout import Layout
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.batch_descriptor import BatchDescriptor
from precast.runtime.generation.steps import SPANS, LoadedGraph

BetweenSteps = Callable[[Tensor], None]
"""Called with the scores ``[R, vocab]`` of each step before tokens are sampled from them."""


@dataclass(frozen=True)
class Bound:
    """The graphs and the memory that all programs share.

    Attributes:
        graphs: Graphs by name.
        limits: Limits of the artifact.
        tensors: State and KV cache by name.
        counting: int32, counting from 0 and from 1, as far as the longest span.
    """

    graphs: Mapping[GraphName, LoadedGraph]
    limits: GenerateLimits
    tensors: Mapping[str, Tensor]
    counting: tuple[Tensor, Tensor]

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the state and of the vocabulary."""
        (logits,) = self.graphs[GraphName.DECODE].signature.outputs
        return {**self.limits.state_sizes, VOCAB: int(logits.shape[1])}

    def span(self, axis: str, size: int) -> Tensor:
        return self.counting[axis == NGRAM][:size]


@dataclass(eq=False)
class StepProgram:
    """The steps of a batch descriptor, with memory for their inputs.

    Attributes:
        descriptor: What the steps compute.
        bound: Graphs and memory.
        layout: Layout of ``inputs``.
        inputs: uint8, the current batch on the device.
        batch: The batch in ``inputs``.
        graph: The captured graph, once there is one.
    """

    descriptor: BatchDescriptor
    bound: Bound
    layout: Layout
    inputs: Tensor
    batch: ActiveBatch | None = None
    graph: CapturedGraph | None = None

    @classmethod
    def of(cls, descriptor: BatchDescriptor, bound: Bound, device: Device) -> StepProgram:
        layout = Layout.of(descriptor.buffers(), {})
        return cls(descriptor, bound, layout, device.memory(layout.nbytes))

    def packed(self, batch: ActiveBatch) -> np.ndarray:
        """Return a batch in the layout of ``inputs``, uint8."""
        block = np.zeros(self.layout.nbytes, np.uint8)
        self.descriptor.write(batch, self.layout.arrays(torch.from_numpy(block)))
        return block

    def run(self, between: BetweenSteps | None = None) -> None:
        """Launch all steps on the current stream."""
        for _ in range(self.descriptor.steps):
            self._step(between)

    def capture(self, device: Device, stream: Stream, pool: MemPool) -> None:
        """Capture the steps. They have run before, since kernels are loaded by their first run.

        None of their allocations is kept, since their result is the state: each step, and each graph captured
        into the same pool, may reuse the memory of the one before.
        """
        self.graph, _ = device.capture(self.run, stream, pool)

    def _step(self, between: BetweenSteps | None) -> None:
        given, descriptor = self.layout.tensors(self.inputs), self.descriptor
        sizes = descriptor.sizes(self.bound.limits) | self.bound.sizes
        (scores,) = self._call(GraphName.DECODE, {"seq_ids": given["seq_ids"]}, sizes)
        if descriptor.token_biases is not None:
            (scores,) = self._call(GraphName.LOGITS_PROCESSORS, {**given, "logits": scores}, sizes)
        if between is not None:
            between(scores)
        for index, group in enumerate(descriptor.sample_groups):
            named = {name: given[f"{name}_{index}"] for name in ("seq_ids", "logits_indices")}
            axes = {**sizes, **descriptor.sample_axes(group)}
            self._call(group.graph, {**named, "scores": scores}, axes)

    def _call(self, name: GraphName, given: Mapping[str, Tensor], axes: Mapping[str, int]) -> list[Tensor]:
        graph, bound = self.bound.graphs[name], self.bound
        signature = graph.signature
        sizes = {axis.name: axes[axis.name] for axis in signature.axes if axis.name in axes}
        spans = {SPANS[axis]: bound.span(axis, sizes[axis]) for axis in sizes.keys() & SPANS.keys()}
        known = {**bound.tensors, **given, **spans}
        inputs = {buffer.name: known[buffer.name] for buffer in signature.inputs}
        kv_cache = {
            str(buffer.shape[0]): inputs[buffer.name].shape[0]
            for buffer in signature.inputs
            if buffer.role == "kv_cache"
        }
        signature.check(inputs, {**sizes, **kv_cache})
        return graph(inputs, sizes)
