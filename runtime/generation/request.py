"""A request from the moment it is made until it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from precast.runtime.errors import InferenceError
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.io.tokens import Tokens

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""As Hugging Face's: token ids int64 ``[rows, length]`` and scores fp32 ``[rows, vocab]`` to scores."""


@dataclass(eq=False)
class GenerateRequest:
    """One source and how to decode it.

    ``on_tokens`` is called by the engine's thread with the new tokens of the first row, and must not wait.
    """

    tokens: Tokens
    plan: SamplingParams
    future: Future[GenerateOutput] = field(default_factory=Future)
    processors: Sequence[LogitsProcessor] = ()
    on_tokens: Callable[[np.ndarray], None] | None = None
    made: float = field(default_factory=time.monotonic)
    scheduled: float = 0.0
    first_token: float = 0.0
    streamed: int = 0
    """Tokens of the first row that ``on_tokens`` has seen, the prefix included."""
    failure: InferenceError | None = None
    """What a step found wrong with this request alone; it is ended by it at the next look."""
    settled: bool = False

    def end(self) -> bool:
        """Whether its maker waits for an answer, which of a cancelled request nobody does. Called once."""
        self.settled = True
        return self.future.set_running_or_notify_cancel()

    def settle(self, error: Exception | None) -> None:
        """End it by an error, unless it has ended. Called by one thread."""
        if not self.settled and self.end() and error is not None:
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class Active:
    """A request that decodes, and its rows of state."""

    request: GenerateRequest
    rows: tuple[int, ...]

    @property
    def plan(self) -> SamplingParams:
        return self.request.plan

    @property
    def source(self) -> np.ndarray:
        return self.request.tokens.ids
