"""The graphs of a recipe, bound to their inputs: called one by one, or captured as one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import CANDIDATES, NGRAM
from precast.graphs.seq2seq import SELF_LENGTH, SOURCE_LENGTH, GenerateLimits
from precast.runtime.cuda.device import CapturedGraph, Device, MemPool, Stream
from precast.runtime.cuda.layout import Layout
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.batch_descriptor import Recipe
from precast.runtime.generation.steps import SPANS, LoadedGraph

BetweenSteps = Callable[[Tensor], None]
"""Is given the scores ``[R, vocab]`` before anything is chosen by them."""


@dataclass(frozen=True)
class Bound:
    """What all recipes share.

    Attributes:
        graphs: by name.
        limits: of the artifact.
        tensors: state and kv_cache, by name.
        counting: int32 from 0 and from 1 up, as far as any span reaches.
    """

    graphs: Mapping[GraphName, LoadedGraph]
    limits: GenerateLimits
    tensors: Mapping[str, Tensor]
    counting: tuple[Tensor, Tensor]

    def span(self, axis: str, size: int) -> Tensor:
        return self.counting[axis == NGRAM][:size]


@dataclass(eq=False)
class StepProgram:
    """A recipe with memory for its inputs.

    Attributes:
        recipe: what is done.
        layout: of ``inputs``.
        inputs: uint8, where the batch lies that it serves.
        batch: which one that is.
        graph: once it was captured.
    """

    recipe: Recipe
    bound: Bound
    layout: Layout
    inputs: Tensor
    batch: ActiveBatch | None = None
    graph: CapturedGraph | None = None

    @classmethod
    def of(cls, recipe: Recipe, bound: Bound, device: Device) -> StepProgram:
        layout = Layout.of(recipe.buffers(bound.graphs[GraphName.LOGITS_PROCESSORS].signature), {})
        return cls(recipe, bound, layout, device.memory(layout.nbytes))

    def packed(self, batch: ActiveBatch) -> np.ndarray:
        """``batch`` as ``inputs`` shall hold it, uint8."""
        block = np.zeros(self.layout.nbytes, np.uint8)
        self.recipe.write(batch, self.layout.arrays(torch.from_numpy(block)))
        return block

    def run(self, between: BetweenSteps | None = None) -> None:
        """Put all steps on the current stream."""
        for _ in range(self.recipe.steps):
            self._step(between)

    def capture(self, device: Device, stream: Stream, pool: MemPool) -> None:
        """Record the steps. They were run before: kernels are loaded by their first run.

        Nothing that they allocate is kept, since what comes of them is the state: each step, and each graph
        of the same cache, may use the memory of the one before.
        """
        self.graph, _ = device.capture(self.run, stream, pool)

    def _step(self, between: BetweenSteps | None) -> None:
        given, recipe = self.layout.tensors(self.inputs), self.recipe
        sizes = recipe.sizes(self.bound.limits)
        (scores,) = self._call(GraphName.DECODE, {"seq_ids": given["seq_ids"]}, sizes)
        if recipe.token_biases is not None:
            (scores,) = self._call(GraphName.LOGITS_PROCESSORS, {**given, "logits": scores}, sizes)
        if between is not None:
            between(scores)
        for place, group in enumerate(recipe.sample_groups):
            named = {name: given[f"{name}_{place}"] for name in ("seq_ids", "logits_indices")}
            axes = {**sizes, **recipe.sample_axes(group)}
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


def largest_span(graphs: Mapping[GraphName, LoadedGraph]) -> int:
    """Up to where ``Bound.counting`` must count."""
    spans = (SELF_LENGTH, SOURCE_LENGTH, NGRAM, CANDIDATES)
    signatures = [graph.signature for graph in graphs.values()]
    return max(axis.maximum for one in signatures for axis in one.axes if axis.name in spans)
