"""The batch descriptor: dispatch key of a captured graph of steps, as vLLM's, and the layout of its inputs.

The active sequences, their modes and their token biases change whenever a request joins or leaves. Sizes are
rounded up, so few graphs serve all batches. Lengths, positions and parameters are read from the state and are
no part of a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import (
    BEAMS,
    BIAS_PREFIX,
    CANDIDATES,
    GROUPS,
    MAX_NGRAM,
    MAX_TOKEN_BIASES,
    NGRAM,
    SAMPLED,
    TOKEN_BIAS_BUFFERS,
    TOKEN_BIASES,
)
from precast.graphs.seq2seq import NUM_SEQS, SELF_LENGTH, SOURCE_LENGTH, GenerateLimits
from precast.graphs.signature import Buffer
from precast.runtime.generation.batch import ActiveBatch, SampleGroup


@dataclass(frozen=True)
class BiasTableShape:
    """Sizes of the table of token biases, and of the longest n-gram."""

    entries: int
    prefix: int
    ngram: int


@dataclass(frozen=True)
class SampleShape:
    """One launch of a ``sample`` graph, for ``count`` sequences or groups of ``beams`` sequences."""

    graph: GraphName
    count: int
    beams: int
    candidates: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, self.beams) if self.beams else (self.count,)


@dataclass(frozen=True)
class BatchDescriptor:
    """``steps`` times ``decode``, ``logits_processors`` if there is a bias table, and each of the sample
    groups.

    Attributes:
        steps: Steps of one launch.
        num_seqs: Request sequences, rounded up to a bucket.
        token_biases: Shape of the bias table; None if no logits are processed.
        sample_groups: Launches of ``sample`` graphs in each step.
    """

    steps: int
    num_seqs: int
    token_biases: BiasTableShape | None
    sample_groups: tuple[SampleShape, ...]

    @classmethod
    def of(cls, batch: ActiveBatch, steps: int, buckets: Buckets, limits: GenerateLimits) -> BatchDescriptor:
        """Return the descriptor that serves a batch.

        Args:
            batch: The batch.
            steps: Steps between two polls.
            buckets: Buckets of sequences.
            limits: Limits of the artifact.
        """
        count = len(batch.seq_ids)
        num_seqs = max(2, buckets.bucket_for(count))
        table = None
        if batch.token_biases is not None:
            # Per sequence: more requests of one kind need a larger table only with a larger bucket.
            entries = sum(
                len(request.params.token_biases) * len(request.seq_ids) for request in batch.requests
            )
            table = BiasTableShape(
                entries=num_seqs * min(_power(-(-entries // count)), MAX_TOKEN_BIASES),
                prefix=min(
                    _power(batch.token_biases["bias_prefixes"].shape[1]), max(2, limits.max_target_length)
                ),
                ngram=min(_power(max(2, batch.ngram)), MAX_NGRAM),
            )
        groups = tuple(_sample_shape(group, batch.vocab_size, buckets) for group in batch.sample_groups)
        return cls(steps, num_seqs, table, groups)

    def buffers(self) -> tuple[Buffer, ...]:
        """Return the buffers that a batch is written into."""
        buffers = [Buffer("seq_ids", "int32", (self.num_seqs,))]
        if self.token_biases is not None:
            sizes = {TOKEN_BIASES: self.token_biases.entries, BIAS_PREFIX: self.token_biases.prefix}
            buffers += [
                Buffer(buffer.name, buffer.dtype, buffer.sizes(sizes)) for buffer in TOKEN_BIAS_BUFFERS
            ]
        for index, group in enumerate(self.sample_groups):
            buffers += [
                Buffer(f"{name}_{index}", "int32", group.shape) for name in ("seq_ids", "logits_indices")
            ]
        return tuple(buffers)

    def sizes(self, limits: GenerateLimits) -> dict[str, int]:
        """Return the axes that all graphs of a step share. Histories and sources are read in full."""
        shared = {
            NUM_SEQS: self.num_seqs,
            SELF_LENGTH: max(2, limits.max_target_length),
            SOURCE_LENGTH: max(2, limits.max_source_length),
        }
        if self.token_biases is None:
            return shared
        return shared | {
            TOKEN_BIASES: self.token_biases.entries,
            BIAS_PREFIX: self.token_biases.prefix,
            NGRAM: self.token_biases.ngram,
        }

    def sample_axes(self, group: SampleShape) -> dict[str, int]:
        """Return the axes that belong to one sample group."""
        count = group.count
        return {SAMPLED: count, GROUPS: count, BEAMS: group.beams, CANDIDATES: group.candidates}

    def write(self, batch: ActiveBatch, arrays: Mapping[str, np.ndarray]) -> None:
        """Write ``batch`` into the arrays of ``buffers``.

        Spare sequences repeat the last one, and spare token biases never act.
        """
        _fill(arrays["seq_ids"], batch.seq_ids)
        if self.token_biases is not None and batch.token_biases is not None:
            for name, tensor in batch.token_biases.items():
                table, target = tensor.numpy(), arrays[name]
                target[...] = 0
                target[tuple(map(slice, table.shape))] = table
        for index, group in enumerate(batch.sample_groups):
            for name in ("seq_ids", "logits_indices"):
                _fill(arrays[f"{name}_{index}"], group.buffers[name].numpy())


def _sample_shape(group: SampleGroup, vocab_size: int, buckets: Buckets) -> SampleShape:
    shape = group.buffers["seq_ids"].shape
    # A single sequence is in the batch twice, whatever the buckets have room for.
    count = max(2, buckets.bucket_for(min(shape[0], buckets.top)))
    candidates = min(_power(group.candidates), vocab_size) if group.candidates else 0
    return SampleShape(group.graph, count, shape[1] if len(shape) == 2 else 0, candidates)


def _fill(target: np.ndarray, values: np.ndarray) -> None:
    target[: len(values)] = values
    target[len(values) :] = values[-1]


def _power(size: int) -> int:
    """Return ``size`` rounded up to a power of two."""
    return 1 << max(0, size - 1).bit_length()
