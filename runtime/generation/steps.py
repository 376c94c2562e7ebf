"""Runs the graphs of generation on a CPU: encodes sources, and decodes one token of all active sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precast.graphs.encode import LENGTH, SEQUENCES, TOKENS
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import CANDIDATES, MAX_NGRAM, NGRAM, VOCAB
from precast.graphs.seq2seq import NUM_SEQS, SELF_LENGTH, SOURCE_LENGTH
from precast.graphs.signature import Signature
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.logits_processors import apply_processors
from precast.runtime.generation.state import DecoderState
from precast.runtime.replay import Graph

SPANS = {
    SELF_LENGTH: "self_span",
    SOURCE_LENGTH: "cross_span",
    NGRAM: "ngram_span",
    CANDIDATES: "candidate_span",
}

_ROUNDED = 16


@dataclass(frozen=True)
class LoadedGraph:
    """A graph and its signature."""

    signature: Signature
    graph: Graph

    def __call__(self, inputs: Mapping[str, Tensor], axes: Mapping[str, int]) -> list[Tensor]:
        outputs = self.graph(inputs)
        self.signature.check_outputs(outputs, axes)
        return outputs


class _Call:
    """A graph bound to its inputs, except those that are outputs of another graph of the step.

    Shapes do not change from step to step, so only the first call checks them.
    """

    def __init__(self, loaded: LoadedGraph, inputs: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
        self._loaded, self._inputs, self._axes = loaded, inputs, axes
        self._checked = False

    def __call__(self, **given: Tensor) -> list[Tensor]:
        # A new dictionary for each call: the scores are large and must not outlive it.
        inputs = {**self._inputs, **given}
        if self._checked:
            return self._loaded.graph(inputs)
        self._loaded.signature.check(inputs, self._axes)
        outputs = self._loaded(inputs, self._axes)
        self._checked = True
        return outputs


@dataclass(frozen=True)
class _StepCalls:
    """The graphs of a step of one batch, up to a target length."""

    batch: ActiveBatch
    self_length: int
    decode: _Call
    logits_processors: _Call | None
    sample_groups: tuple[_Call, ...]


class Steps:
    """The graphs over one KV cache and one decoder state. Used by one thread.

    Args:
        graphs: All graphs by name.
        state: The decoder state.
        kv_cache: Every tensor of the self- and cross-attention KV cache by name.
    """

    def __init__(
        self, graphs: Mapping[GraphName, LoadedGraph], state: DecoderState, kv_cache: Mapping[str, Tensor]
    ) -> None:
        self._graphs = graphs
        self._state = state
        self._kv_cache = kv_cache
        longest = longest_span(graphs)
        # A separate tensor, because a slice from 1 on would not be aligned.
        count, ngram = _counting(0, longest + 1), _counting(1, longest + 2)
        self._counting = {axis: count for axis in SPANS} | {NGRAM: ngram}
        self._calls: _StepCalls | None = None

    def encode_sources(self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Encode sources in one batch and write their keys and values into the cross-attention KV cache.

        Args:
            sources: Token ids, int32 ``[n]`` each.
            slots: Slots in the KV cache, int32 ``[n]`` each.

        Returns:
            The encoder's hidden states, fp32 ``[n, size]`` each.

        Raises:
            GraphError, SignatureError: The graph failed.
        """
        graph = self._graphs[GraphName.ENCODE_SOURCE]
        lengths = [len(source) for source in sources]
        tokens = sum(lengths)
        axes = {
            TOKENS: self._rounded(GraphName.ENCODE_SOURCE, TOKENS, tokens),
            SEQUENCES: max(2, len(sources)),
            LENGTH: self._rounded(GraphName.ENCODE_SOURCE, LENGTH, max(lengths)),
        }
        ids, to, ends = (np.zeros(n, np.int32) for n in (axes[TOKENS], axes[TOKENS], axes[SEQUENCES] + 1))
        np.concatenate(sources, out=ids[:tokens])
        np.concatenate(slots, out=to[:tokens])
        ends[1 : len(lengths) + 1] = np.cumsum(lengths)
        ends[len(lengths) + 1 :] = tokens
        inputs = {
            **self._kv_cache,
            "input_ids": torch.from_numpy(ids),
            "cu_seqlens": torch.from_numpy(ends),
            "cross_slots": torch.from_numpy(to),
            "key_positions": torch.arange(axes[LENGTH], dtype=torch.int32),
        }
        graph.signature.check(inputs, axes | _sizes_of(graph.signature, self._kv_cache))
        (hidden,) = graph(inputs, axes)
        return np.split(hidden[:tokens].numpy(), np.cumsum(lengths)[:-1])

    def step(self, batch: ActiveBatch) -> None:
        """Decode the next token of every sequence of ``batch`` that is not finished.

        Raises:
            GraphError, SignatureError: A graph failed; the state of the sequences is undefined then.
        """
        longest = int(self._state.arrays["positions"][batch.seq_ids].max()) + 1
        length = self._rounded(GraphName.DECODE, SELF_LENGTH, longest)
        calls = self._calls
        if calls is None or calls.batch is not batch or calls.self_length != length:
            calls = self._calls = self._calls_of(batch, length)
        (scores,) = calls.decode()
        if calls.logits_processors is not None:
            (scores,) = calls.logits_processors(logits=scores)
        apply_processors(batch, self._state, scores)
        for sample in calls.sample_groups:
            sample(scores=scores)

    def _calls_of(self, batch: ActiveBatch, self_length: int) -> _StepCalls:
        axes = {
            NUM_SEQS: len(batch.padded_seq_ids),
            SELF_LENGTH: self_length,
            SOURCE_LENGTH: self._rounded(GraphName.DECODE, SOURCE_LENGTH, batch.source_length),
            NGRAM: max(2, batch.ngram),
            VOCAB: batch.vocab_size,
        }
        sequences = {"seq_ids": batch.padded_seq_ids}
        return _StepCalls(
            batch,
            self_length,
            self._call(GraphName.DECODE, sequences, axes),
            None
            if batch.token_biases is None
            else self._call(GraphName.LOGITS_PROCESSORS, {**sequences, **batch.token_biases}, axes),
            tuple(
                self._call(group.graph, group.buffers, {**axes, CANDIDATES: group.candidates})
                for group in batch.sample_groups
            ),
        )

    def _rounded(self, graph: GraphName, axis: str, size: int) -> int:
        """Round a size up: matrix products are set up for each size, so few sizes should occur."""
        limit = self._graphs[graph].signature.axis(axis)
        return max(limit.minimum, min(limit.maximum, -(-size // _ROUNDED) * _ROUNDED))

    def _call(self, name: GraphName, given: Mapping[str, Tensor], axes: Mapping[str, int]) -> _Call:
        """Return the bound call of a graph; tensors determine the axes that are not in ``axes``."""
        graph = self._graphs[name]
        named = {axis.name for axis in graph.signature.axes}
        sizes = {axis: size for axis, size in axes.items() if axis in named}
        sizes |= _sizes_of(graph.signature, {**self._state.tensors, **self._kv_cache, **given})
        spans = {SPANS[axis]: self._counting[axis][: sizes[axis]] for axis in sizes.keys() & SPANS.keys()}
        return _Call(graph, {**self._state.tensors, **self._kv_cache, **given, **spans}, sizes)


def longest_span(graphs: Mapping[GraphName, LoadedGraph]) -> int:
    """Return the largest size of a span that the artifact's limits allow."""
    decode = graphs[GraphName.DECODE].signature
    sizes = [
        size
        for buffer in (*decode.inputs, *decode.outputs)
        if buffer.role != "kv_cache"
        for size in buffer.shape
    ]
    return max(MAX_NGRAM, *(size for size in sizes if isinstance(size, int)))


def _sizes_of(signature: Signature, given: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the sizes of the axes that the shapes of some inputs determine."""
    buffers = [buffer for buffer in signature.inputs if buffer.name in given]
    return {
        dim: size
        for buffer in buffers
        for dim, size in zip(buffer.shape, given[buffer.name].shape, strict=True)
        if isinstance(dim, str)
    }


def _counting(start: int, end: int) -> Tensor:
    """Return ``start .. end - 1``, int32, made by numpy: torch would start threads for a large size."""
    return torch.from_numpy(np.arange(start, end, dtype=np.int32))
