"""What one captured graph of steps does, and how a batch is written into its inputs.

Which rows run, who is chosen for in which way, and the table of rules change whenever somebody joins or
leaves; their sizes are rounded up, so that few graphs serve all batches. Lengths, positions and parameters
are read from the state, and no part of a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from precast.graphs.sampling import BEAMS, CANDIDATES, CHOSEN, GROUPS, NGRAM, RULE_LENGTH, RULES
from precast.graphs.seq2seq import ROWS, SELF_LENGTH, SOURCE_LENGTH, GenerateLimits
from precast.graphs.buckets import Ladder
from precast.graphs.signature import Buffer, Signature
from precast.runtime.generation.batch import ActiveBatch, Choice


@dataclass(frozen=True)
class RuleSizes:
    """Of the table of rules, and how far n-grams are looked for."""

    entries: int
    length: int
    ngram: int


@dataclass(frozen=True)
class ChoiceSizes:
    """Of one launch of a ``choose`` graph: so many rows, or groups of ``beams`` rows each."""

    graph: str
    count: int
    beams: int
    candidates: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, self.beams) if self.beams else (self.count,)


@dataclass(frozen=True)
class Recipe:
    """``steps`` times ``decode``, ``rules`` where there are any, and each of the ``choices``."""

    steps: int
    rows: int
    rules: RuleSizes | None
    choices: tuple[ChoiceSizes, ...]

    @classmethod
    def of(cls, batch: ActiveBatch, steps: int, ladder: Ladder, rules: Signature) -> Recipe:
        """The one that serves ``batch``.

        Args:
            batch: the rows, and what they ask for.
            steps: between two looks.
            ladder: of rows.
            rules: the signature of that graph.
        """
        count = len(batch.rows)
        rows = max(2, ladder.bucket_for(count))
        found = None
        if batch.rules is not None:
            # By the row, so that more requests of one kind need another table only where they need more rows.
            entries = sum(len(one.plan.rules) * len(one.rows) for one in batch.requests)
            wanted = {
                RULES: rows * _power(-(-entries // count)),
                RULE_LENGTH: _power(batch.rules["rule_prefixes"].shape[1]),
                NGRAM: _power(max(2, batch.ngram)),
            }
            found = RuleSizes(*(min(size, rules.axis(axis).maximum) for axis, size in wanted.items()))
        choices = tuple(_sizes(choice, batch.vocab_size, ladder) for choice in batch.choices)
        return cls(steps, rows, found, choices)

    def buffers(self, rules: Signature) -> tuple[Buffer, ...]:
        """What a batch is written into; ``rules`` is the signature of that graph."""
        found = [Buffer("rows", "int32", (self.rows,))]
        if self.rules is not None:
            sizes = {RULES: self.rules.entries, RULE_LENGTH: self.rules.length}
            found += [
                Buffer(buffer.name, buffer.dtype, buffer.sizes(sizes))
                for buffer in rules.inputs
                if buffer.name.startswith("rule_")
            ]
        for place, choice in enumerate(self.choices):
            found += [Buffer(f"{name}_{place}", "int32", choice.shape) for name in ("chosen", "at")]
        return tuple(found)

    def sizes(self, limits: GenerateLimits) -> dict[str, int]:
        """Of the axes that all graphs of a step share. Histories and sources are looked at in full."""
        shared = {
            ROWS: self.rows,
            SELF_LENGTH: max(2, limits.max_target_length),
            SOURCE_LENGTH: max(2, limits.max_source_length),
        }
        if self.rules is None:
            return shared
        rules = {RULES: self.rules.entries, RULE_LENGTH: self.rules.length, NGRAM: self.rules.ngram}
        return shared | rules

    def choice_sizes(self, choice: ChoiceSizes) -> dict[str, int]:
        """Of the axes that belong to one choice."""
        count = choice.count
        return {CHOSEN: count, GROUPS: count, BEAMS: choice.beams, CANDIDATES: choice.candidates}

    def write(self, batch: ActiveBatch, arrays: Mapping[str, np.ndarray]) -> None:
        """Write ``batch`` into the arrays of ``buffers``.

        Spare rows repeat the last one, and spare rules never act.
        """
        _fill(arrays["rows"], batch.rows)
        if self.rules is not None and batch.rules is not None:
            for name, tensor in batch.rules.items():
                table, target = tensor.numpy(), arrays[name]
                target[...] = 0
                target[tuple(map(slice, table.shape))] = table
        for place, choice in enumerate(batch.choices):
            for name in ("chosen", "at"):
                _fill(arrays[f"{name}_{place}"], choice.buffers[name].numpy())


def _sizes(choice: Choice, vocab_size: int, ladder: Ladder) -> ChoiceSizes:
    shape = choice.buffers["chosen"].shape
    # A single row stands in the batch twice, whatever the ladder has room for.
    count = max(2, ladder.bucket_for(min(shape[0], ladder.top)))
    candidates = min(_power(choice.candidates), vocab_size) if choice.candidates else 0
    return ChoiceSizes(choice.graph, count, shape[1] if len(shape) == 2 else 0, candidates)


def _fill(target: np.ndarray, found: np.ndarray) -> None:
    target[: len(found)] = found
    target[len(found) :] = found[-1]


def _power(size: int) -> int:
    """The next power of two."""
    return 1 << max(0, size - 1).bit_length()
