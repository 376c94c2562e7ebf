"""What ``generate`` answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GeneratedSequence:
    """One target.

    Attributes:
        token_ids: int32 ``[n]``: the start token, the prefix, and what was generated; as Hugging Face's
            ``generate`` gives it, without padding.
        text: decoded without special tokens; None where the artifact has no tokenizer.
        score: for beams Hugging Face's ``sequences_scores`` (the sum of log-probabilities over a power of the
            length), otherwise the sum.
        logprobs: fp32 ``[n - prefix_length]``, of each generated token among the processed scores.
        finish_reason: ``eos``, or ``length`` where ``max_length`` ended it.
        prefix_length: tokens at the front that were given.
    """

    token_ids: np.ndarray
    text: str | None
    score: float
    logprobs: np.ndarray
    finish_reason: FinishReason
    prefix_length: int


@dataclass(frozen=True)
class Timings:
    """Seconds since the request was made: until it was admitted, until its first token, until the end."""

    scheduled: float
    first_token: float
    finished: float


@dataclass(frozen=True)
class GenerateOutput:
    """The answer to one input; its best sequence's fields stand on it too.

    Attributes:
        prompt_token_ids: int32 ``[n]``, what the encoder was given.
        sequences: ``num_return_sequences`` of them, for beams best first.
        truncated: whether the source was cut to the artifact's length.
        timings: of the request.
    """

    prompt_token_ids: np.ndarray
    sequences: tuple[GeneratedSequence, ...]
    truncated: bool
    timings: Timings

    @property
    def text(self) -> str | None:
        return self.sequences[0].text

    @property
    def token_ids(self) -> np.ndarray:
        return self.sequences[0].token_ids

    @property
    def score(self) -> float:
        return self.sequences[0].score

    @property
    def finish_reason(self) -> FinishReason:
        return self.sequences[0].finish_reason
