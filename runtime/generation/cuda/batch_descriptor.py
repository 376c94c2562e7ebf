"""What one captured graph of steps does, and how a batch is written into its inputs.

Which rows run, who is chosen for in which way, and the table of token_biases change whenever somebody joins or
leaves; their sizes are rounded up, so that few graphs serve all batches. Lengths, positions and parameters
are read from the state, and no part of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import BEAMS, BIAS_PREFIX, CANDIDATES, GROUPS, NGRAM, SAMPLED, TOKEN_BIASES
from precast.graphs.seq2seq import NUM_SEQS, SELF_LENGTH, SOURCE_LENGTH, GenerateLimits
from precast.graphs.signature import Buffer, Signature
from precast.runtime.generation.batch import ActiveBatch, SampleGroup


@dataclass(frozen=True)
class BiasTableShape:
    """Of the table of token_biases, and how far n-grams are looked for."""

    entries: int
    length: int
    ngram: int


@dataclass(frozen=True)
class SampleShape:
    """Of one launch of a ``sample`` graph: so many rows, or groups of ``beams`` rows each."""

    graph: GraphName
    count: int
    beams: int
    candidates: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, self.beams) if self.beams else (self.count,)


@dataclass(frozen=True)
class Recipe:
    """``steps`` times ``decode``, ``token_biases`` where there are any, and each of the ``sample_groups``."""

    steps: int
    rows: int
    token_biases: BiasTableShape | None
    sample_groups: tuple[SampleShape, ...]

    @classmethod
    def of(cls, batch: ActiveBatch, steps: int, buckets: Buckets, token_biases: Signature) -> Recipe:
        """The one that serves ``batch``.

        Args:
            batch: the rows, and what they ask for.
            steps: between two looks.
            buckets: of rows.
            token_biases: the signature of that graph.
        """
        count = len(batch.rows)
        rows = max(2, buckets.bucket_for(count))
        found = None
        if batch.token_biases is not None:
            # By the row, so that more requests of one kind need another table only where they need more rows.
            entries = sum(len(one.params.token_biases) * len(one.seq_ids) for one in batch.requests)
            wanted = {
                TOKEN_BIASES: rows * _power(-(-entries // count)),
                BIAS_PREFIX: _power(batch.token_biases["bias_prefixes"].shape[1]),
                NGRAM: _power(max(2, batch.ngram)),
            }
            found = BiasTableShape(
                *(min(size, token_biases.axis(axis).maximum) for axis, size in wanted.items())
            )
        sample_groups = tuple(_sizes(group, batch.vocab_size, buckets) for group in batch.sample_groups)
        return cls(steps, rows, found, sample_groups)

    def buffers(self, token_biases: Signature) -> tuple[Buffer, ...]:
        """What a batch is written into; ``token_biases`` is the signature of that graph."""
        found = [Buffer("seq_ids", "int32", (self.rows,))]
        if self.token_biases is not None:
            sizes = {TOKEN_BIASES: self.token_biases.entries, BIAS_PREFIX: self.token_biases.length}
            found += [
                Buffer(buffer.name, buffer.dtype, buffer.sizes(sizes))
                for buffer in token_biases.inputs
                if buffer.name.startswith("bias_")
            ]
        for place, group in enumerate(self.sample_groups):
            found += [
                Buffer(f"{name}_{place}", "int32", group.shape) for name in ("seq_ids", "logits_indices")
            ]
        return tuple(found)

    def sizes(self, limits: GenerateLimits) -> dict[str, int]:
        """Of the axes that all graphs of a step share. Histories and sources are looked at in full."""
        shared = {
            NUM_SEQS: self.rows,
            SELF_LENGTH: max(2, limits.max_target_length),
            SOURCE_LENGTH: max(2, limits.max_source_length),
        }
        if self.token_biases is None:
            return shared
        token_biases = {
            TOKEN_BIASES: self.token_biases.entries,
            BIAS_PREFIX: self.token_biases.length,
            NGRAM: self.token_biases.ngram,
        }
        return shared | token_biases

    def sample_axes(self, group: SampleShape) -> dict[str, int]:
        """Of the axes that belong to one group."""
        count = group.count
        return {SAMPLED: count, GROUPS: count, BEAMS: group.beams, CANDIDATES: group.candidates}

    def write(self, batch: ActiveBatch, arrays: Mapping[str, np.ndarray]) -> None:
        """Write ``batch`` into the arrays of ``buffers``.

        Spare rows repeat the last one, and spare token_biases never act.
        """
        _fill(arrays["seq_ids"], batch.rows)
        if self.token_biases is not None and batch.token_biases is not None:
            for name, tensor in batch.token_biases.items():
                table, target = tensor.numpy(), arrays[name]
                target[...] = 0
                target[tuple(map(slice, table.shape))] = table
        for place, group in enumerate(batch.sample_groups):
            for name in ("seq_ids", "logits_indices"):
                _fill(arrays[f"{name}_{place}"], group.buffers[name].numpy())


def _sizes(group: SampleGroup, vocab_size: int, buckets: Buckets) -> SampleShape:
    shape = group.buffers["seq_ids"].shape
    # A single row stands in the batch twice, whatever the buckets has room for.
    count = max(2, buckets.bucket_for(min(shape[0], buckets.top)))
    candidates = min(_power(group.candidates), vocab_size) if group.candidates else 0
    return SampleShape(group.graph, count, shape[1] if len(shape) == 2 else 0, candidates)


def _fill(target: np.ndarray, found: np.ndarray) -> None:
    target[: len(found)] = found
    target[len(found) :] = found[-1]


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()
