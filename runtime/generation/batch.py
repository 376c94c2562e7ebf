"""The sequences that decode in one batch, and the graphs that sample their tokens."""

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

_EXACT, _STEP = 8, 4
"""Batches up to ``_EXACT`` sequences are not padded, larger ones to a multiple of ``_STEP``."""
_TIES = 32
"""Candidates beyond the largest ``top_k``, since tokens that tie with the last one are kept too."""

RequestRow = tuple[int, Request]
"""A request and the row of the logits that belongs to its first sequence."""


@dataclass(frozen=True, eq=False)
class SampleGroup:
    """The sequences of one launch of a ``sample`` graph.

    Attributes:
        graph: The graph that samples their tokens.
        buffers: int32 ``seq_ids`` and ``logits_indices``, ``[sequences]``, for beams ``[groups, beams]``.
        candidates: For ``sample.multinomial``, number of the best tokens to sample among; otherwise 0.
    """

    graph: GraphName
    buffers: dict[str, Tensor]
    candidates: int = 0


@dataclass(frozen=True, eq=False)
class ActiveBatch:
    """Inputs that stay the same from step to step until a request joins or leaves.

    Attributes:
        requests: The running requests.
        vocab_size: Vocabulary of the decoder.
        max_num_seqs: Most sequences of a batch.
        seq_ids: int32 ``[R]``: the active sequences. Rows of the logits are in their order.
        padded_seq_ids: ``seq_ids``, padded with the last one to one of few sizes.
        source_length: Tokens of the longest source.
        ngram: Largest n-gram size of the requests' parameters; 0 if none is set.
        token_biases: The table of token biases; None if no logits are processed.
        sample_groups: Launches of ``sample`` graphs in each step.
        processed: Requests with logits processors in Python, with the logits row of the first sequence of
            each.
    """

    requests: tuple[Request, ...]
    vocab_size: int
    max_num_seqs: int
    seq_ids: np.ndarray = field(init=False)
    padded_seq_ids: Tensor = field(init=False)
    source_length: int = field(init=False)
    ngram: int = field(init=False)
    token_biases: dict[str, Tensor] | None = field(init=False)
    sample_groups: tuple[SampleGroup, ...] = field(init=False)
    processed: tuple[RequestRow, ...] = field(init=False)

    def __post_init__(self) -> None:
        seq_ids = np.concatenate([np.asarray(request.seq_ids, np.int32) for request in self.requests])
        params = [request.params for request in self.requests]
        ngrams = [max(each["no_repeat_ngram_size"], each["encoder_no_repeat_ngram_size"]) for each in params]
        for name, value in (
            ("seq_ids", seq_ids),
            ("padded_seq_ids", torch.from_numpy(_padded(seq_ids, self.max_num_seqs))),
            ("source_length", max(len(request.source_ids) for request in self.requests)),
            ("ngram", max(ngrams)),
            ("token_biases", self._bias_table()),
            ("sample_groups", self._sample_groups()),
            ("processed", tuple((row, request) for row, request in self._rows() if request.processors)),
        ):
            object.__setattr__(self, name, value)

    def _rows(self) -> list[RequestRow]:
        ends = list(accumulate(len(request.seq_ids) for request in self.requests))
        return list(zip([0, *ends], self.requests, strict=False))

    def _bias_table(self) -> dict[str, Tensor] | None:
        if not any(request.params.needs_processing for request in self.requests):
            return None
        entries: list[tuple[int, TokenBias]] = []
        for start, request in self._rows():
            for row in range(start, start + len(request.seq_ids)):
                entries += [(row, bias) for bias in request.params.token_biases]
        return token_bias_table(entries)

    def _sample_groups(self) -> tuple[SampleGroup, ...]:
        rows = self._rows()
        groups = []
        for mode in ("greedy", "multinomial"):
            some = [(row, request) for row, request in rows if request.params.mode == mode]
            if some:
                candidates = max(_candidates(request, self.vocab_size) for _, request in some)
                groups.append(SampleGroup(GraphName(f"sample.{mode}"), _by_sequence(some), candidates))
        beams = [(row, request) for row, request in rows if request.params.mode == "beam"]
        for count in sorted({request.params.num_beams for _, request in beams}):
            some = [(row, request) for row, request in beams if request.params.num_beams == count]
            groups.append(SampleGroup(GraphName.SAMPLE_BEAM, _by_request(some)))
        return tuple(groups)


def _candidates(request: Request, vocab_size: int) -> int:
    if request.params.mode != "multinomial":
        return 0
    top_k = request.params["top_k"]
    return min(vocab_size, top_k + _TIES) if top_k else vocab_size


def _by_sequence(rows: Sequence[RequestRow]) -> dict[str, Tensor]:
    return _sample_buffers(*(np.concatenate(part) for part in _ids_and_rows(rows)))


def _by_request(rows: Sequence[RequestRow]) -> dict[str, Tensor]:
    return _sample_buffers(*(np.stack(part) for part in _ids_and_rows(rows)))


def _ids_and_rows(rows: Sequence[RequestRow]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the sequences of each request, and their rows of the logits."""
    seq_ids = [np.asarray(request.seq_ids, np.int32) for _, request in rows]
    indices = [np.arange(row, row + len(request.seq_ids), dtype=np.int32) for row, request in rows]
    return seq_ids, indices


def _sample_buffers(seq_ids: np.ndarray, logits_indices: np.ndarray) -> dict[str, Tensor]:
    return {
        "seq_ids": torch.from_numpy(_at_least_two(seq_ids)),
        "logits_indices": torch.from_numpy(_at_least_two(logits_indices)),
    }


def _padded(seq_ids: np.ndarray, max_num_seqs: int) -> np.ndarray:
    """Pad a batch: one more sequence costs little, while each new size needs a setup."""
    step = 1 if len(seq_ids) <= _EXACT else _STEP
    count = max(2, min(max_num_seqs, -(-len(seq_ids) // step) * step))
    return np.concatenate([seq_ids, np.repeat(seq_ids[-1:], count - len(seq_ids))])


def _at_least_two(values: np.ndarray) -> np.ndarray:
    """Repeat a single sequence, or group: it is computed twice with the same result."""
    return np.concatenate([values, values]) if len(values) == 1 else values
