"""A generation request, from submission to output."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from precast.runtime.errors import InferenceError
from precast.runtime.futures import ResultFuture
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.io.tokens import Tokens

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""As in Hugging Face: maps token ids, int64 ``[n, length]``, and scores, fp32 ``[n, vocab]``, to scores."""

RequestState = Literal["waiting", "running", "finished"]


@dataclass(frozen=True)
class Reservation:
    """The sequences and KV cache blocks of a running request.

    Attributes:
        seq_ids: Indices of its sequences in the decoder state.
        self_blocks: Self-attention blocks of each sequence.
        cross_blocks: Cross-attention blocks, shared by all sequences.
    """

    seq_ids: tuple[int, ...]
    self_blocks: tuple[tuple[int, ...], ...] = ()
    cross_blocks: tuple[int, ...] = ()


@dataclass(eq=False)
class Request:
    """One source with its generation parameters, from submission to output.

    Attributes:
        tokens: The source.
        params: The generation parameters.
        future: Receives the output; it may be cancelled at any time.
        processors: Logits processors of the user.
        on_tokens: Called by the engine's thread with new tokens of the first sequence; must not block.
        created: ``time.monotonic`` when the request was made.
        scheduled: ``time.monotonic`` when its first decode step was launched.
        first_token: ``time.monotonic`` when its first token was generated.
        streamed: Tokens of the first sequence that were passed to ``on_tokens``, the prefix included.
        failure: Error of this request that occurred in a step; the next poll ends the request with it.
        reservation: Sequences and blocks of a running request; written by the scheduler.
        state: Written by the scheduler.
        arrival: Position in the order of arrival, -1 before it is queued; written by the scheduler.
        delayed_since: Decode step at which the request could first have run, -1 before; written by the
            scheduler.

    Raises:
        ValueError: The request has no sequence, or no source or target token.
    """

    tokens: Tokens
    params: SamplingParams
    future: ResultFuture[GenerateOutput] = field(default_factory=ResultFuture)
    processors: Sequence[LogitsProcessor] = ()
    on_tokens: Callable[[np.ndarray], None] | None = None
    created: float = field(default_factory=time.monotonic)
    scheduled: float = 0.0
    first_token: float = 0.0
    streamed: int = 0
    failure: InferenceError | None = None
    reservation: Reservation | None = None
    state: RequestState = "waiting"
    arrival: int = -1
    delayed_since: int = -1

    def __post_init__(self) -> None:
        if min(self.num_seqs, self.target_tokens, self.source_tokens) < 1:
            raise ValueError(
                f"a request needs at least 1 sequence, 1 target token and 1 source token; found "
                f"{self.num_seqs}, {self.target_tokens} and {self.source_tokens}"
            )

    @property
    def num_seqs(self) -> int:
        """Sequences of decoder state that the request needs."""
        return self.params.num_seqs

    @property
    def target_tokens(self) -> int:
        """Most tokens of the target; every sequence has its own blocks for them."""
        return self.params.max_length

    @property
    def source_tokens(self) -> int:
        """Tokens of the source; all sequences share its blocks."""
        return len(self.tokens)

    @property
    def source_ids(self) -> np.ndarray:
        """Token ids of the source, int32 ``[source_tokens]``."""
        return self.tokens.ids

    @property
    def held(self) -> Reservation:
        """The reservation of a running request."""
        assert self.reservation is not None, "only a running request holds a reservation"
        return self.reservation

    @property
    def seq_ids(self) -> tuple[int, ...]:
        """The sequences of a running request."""
        return self.held.seq_ids
