"""The sequences that decode together, and the graphs that sample their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from precast.graphs.graph_names import GraphName
from precast.runtime.generation.request import Request
from precast.runtime.generation.token_bias import TokenBias, token_bias_table


@dataclass(frozen=True)
class SampleGroup:
    """The sequences of one launch of a ``sample`` graph."""

    graph: GraphName
    buffers: dict[str, Tensor]
    candidates: int = 0
    """For ``sample.multinomial``: number of the best tokens to sample among."""


@dataclass(frozen=True)
class ActiveBatch:
    """Inputs that stay the same from step to step until a request joins or leaves.

    ``rows`` ``[R]`` are the active sequences; rows of the logits are in their order.
    """

    requests: tuple[Request, ...]
    vocab_size: int
    max_num_seqs: int
    rows: np.ndarray = field(init=False)
    padded_seq_ids: Tensor = field(init=False)
    """``rows``, padded with the last one to one of few sizes."""
    source_length: int = field(init=False)
    ngram: int = field(init=False)
    token_biases: dict[str, Tensor] | None = field(init=False)
    """The table of token biases; None if no logits are processed."""
    sample_groups: tuple[SampleGroup, ...] = field(init=False)
    processed: tuple[tuple[int, Request], ...] = field(init=False)
    """Requests with logits processors in Python, and the first row of each."""

    def __post_init__(self) -> None:
        rows = np.concatenate([np.asarray(one.seq_ids, np.int32) for one in self.requests])
        plans = [one.params for one in self.requests]
        sizes = [max(plan["no_repeat_ngram_size"], plan["encoder_no_repeat_ngram_size"]) for plan in plans]
        for name, value in (
            ("rows", rows),
            ("padded_seq_ids", torch.from_numpy(_padded(rows, self.max_num_seqs))),
            ("source_length", max(len(one.source_ids) for one in self.requests)),
            ("ngram", max(sizes)),
            ("token_biases", self._bias_table()),
            ("sample_groups", self._sample_groups()),
            ("processed", tuple(placed for placed in self._placed() if placed[1].processors)),
        ):
            object.__setattr__(self, name, value)

    def _placed(self) -> list[tuple[int, Request]]:
        """Each request with its first row of the logits."""
        ends = list(accumulate(len(one.seq_ids) for one in self.requests))
        return list(zip([0, *ends], self.requests, strict=False))

    def _bias_table(self) -> dict[str, Tensor] | None:
        if not any(one.params.needs_processing for one in self.requests):
            return None
        entries: list[tuple[int, TokenBias]] = []
        for start, one in self._placed():
            for row in range(start, start + len(one.seq_ids)):
                entries += [(row, bias) for bias in one.params.token_biases]
        return token_bias_table(entries)

    def _sample_groups(self) -> tuple[SampleGroup, ...]:
        placed = self._placed()
        sample_groups = []
        for mode in ("greedy", "multinomial"):
            mine = [(start, one) for start, one in placed if one.params.mode == mode]
            if mine:
                candidates = max(_candidates(one, self.vocab_size) for _, one in mine)
                sample_groups.append(
                    SampleGroup(GraphName(f"sample.{mode}"), _one_token_each(mine), candidates)
                )
        beams = sorted({one.params.num_beams for _, one in placed if one.params.mode == "beam"})
        for count in beams:
            mine = [
                (s, one) for s, one in placed if one.params.mode == "beam" and one.params.num_beams == count
            ]
            sample_groups.append(SampleGroup(GraphName.SAMPLE_BEAM, _groups(mine)))
        return tuple(sample_groups)


_EXACT, _STEP = 8, 4
"""Batches up to ``_EXACT`` sequences are not padded, larger ones to a multiple of ``_STEP``."""
_TIES = 32
"""Candidates beyond the largest ``top_k``, since tokens that tie with the last one are kept too."""


def _candidates(one: Request, vocab_size: int) -> int:
    if one.params.mode != "multinomial":
        return 0
    return min(vocab_size, one.params["top_k"] + _TIES) if one.params["top_k"] else vocab_size


def _one_token_each(placed: Sequence[tuple[int, Request]]) -> dict[str, Tensor]:
    seq_ids = np.concatenate([np.asarray(one.seq_ids, np.int32) for _, one in placed])
    at = np.concatenate([np.arange(start, start + len(one.seq_ids), dtype=np.int32) for start, one in placed])
    return {
        "seq_ids": torch.from_numpy(_at_least_two(seq_ids)),
        "logits_indices": torch.from_numpy(_at_least_two(at)),
    }


def _groups(placed: Sequence[tuple[int, Request]]) -> dict[str, Tensor]:
    seq_ids = np.stack([np.asarray(one.seq_ids, np.int32) for _, one in placed])
    at = np.stack([np.arange(start, start + len(one.seq_ids), dtype=np.int32) for start, one in placed])
    return {
        "seq_ids": torch.from_numpy(_at_least_two(seq_ids)),
        "logits_indices": torch.from_numpy(_at_least_two(at)),
    }


def _padded(rows: np.ndarray, max_num_seqs: int) -> np.ndarray:
    """``decode`` reads all weights anyway: another sequence costs little, but a new size a setup."""
    step = 1 if len(rows) <= _EXACT else _STEP
    count = max(2, min(max_num_seqs, -(-len(rows) // step) * step))
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows))])


def _at_least_two(rows: np.ndarray) -> np.ndarray:
    """A single sequence, or group, is computed twice with the same result."""
    return np.concatenate([rows, rows]) if len(rows) == 1 else rows
