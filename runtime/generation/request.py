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
"""As in Hugging Face: from token ids, int64 ``[n, length]``, and scores, fp32 ``[n, vocab]``, to scores."""

RequestState = Literal["waiting", "running", "finished"]


@dataclass(frozen=True)
class Reservation:
    """What a running request holds.

    Attributes:
        seq_ids: its sequences, rows of the decoder's state.
        self_blocks: blocks of the self-attention KV cache, for each sequence.
        cross_blocks: blocks of the cross-attention KV cache, shared by all sequences.
    """

    seq_ids: tuple[int, ...]
    self_blocks: tuple[tuple[int, ...], ...] = ()
    cross_blocks: tuple[int, ...] = ()


@dataclass(eq=False)
class Request:
    """One source and how to decode it.

    Attributes:
        tokens: the source.
        params: how to decode.
        future: takes the output; it may be cancelled at any time.
        processors: logits processors of the user.
        on_tokens: called by the engine's thread with new tokens of the first sequence; must not block.
        created: ``time.monotonic`` when the request was made.
        scheduled: when its first decode step was launched.
        first_token: when its first token was generated.
        streamed: tokens of the first sequence that ``on_tokens`` has seen, the prefix included.
        failure: error of this request alone that a step found; the next poll ends the request with it.
        reservation: what the request holds while it runs; written by the scheduler.
        state: written by the scheduler.
        arrival: number in the order in which requests were queued, -1 before; written by the scheduler.
        delayed_since: the step at which the request could first have run; -1 before; written by the
            scheduler.

    Raises:
        ValueError: the request has no sequence, or no source or target token.
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
        """Positions that each sequence may reach; every sequence has blocks of its own for them."""
        return self.params.max_length

    @property
    def source_tokens(self) -> int:
        """Tokens of the source, stored once for all sequences."""
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
        """The sequences that a running request holds."""
        return self.held.seq_ids
