"""Outputs of generation, which are compared by content and hashed by their token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from precast.runtime.io.outputs import describe_array, equal_fields

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, eq=False)
class GeneratedSequence:
    """One generated target.

    Attributes:
        token_ids: int32 ``[n]``: start token, prefix and generated tokens, as Hugging Face's ``generate``
            returns them, without padding.
        text: decoded without special tokens; None if the artifact has no tokenizer.
        score: sum of the log-probabilities; for beams divided by a power of the length.
        logprobs: fp32 ``[n - prefix_length]``, log-probability of each generated token among the processed
            scores.
        finish_reason: ``stop`` if an end-of-sequence token ended it, ``length`` if its maximal length did.
        prefix_length: number of leading tokens that were given: the start token and the prefix.
        sequences_score: for beams ``score``, Hugging Face's ``sequences_scores``; None otherwise.
    """

    token_ids: np.ndarray
    text: str | None
    score: float
    logprobs: np.ndarray
    finish_reason: FinishReason
    prefix_length: int
    sequences_score: float | None = None

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other)

    def __hash__(self) -> int:
        return hash(self.token_ids.tobytes())

    def __repr__(self) -> str:
        content = (
            f"token_ids={describe_array(self.token_ids)}" if self.text is None else f"text={self.text!r}"
        )
        return (
            f"GeneratedSequence({content}, score={self.score:.4f}, tokens={len(self.logprobs)}, "
            f"finish_reason={self.finish_reason!r})"
        )


@dataclass(frozen=True)
class Timings:
    """Seconds from the creation of a request to its first decode step, its first token and its end."""

    scheduled: float
    first_token: float
    finished: float


@dataclass(frozen=True, eq=False)
class GenerateOutput:
    """The output of one input. Fields of its best sequence can be read from it directly.

    Attributes:
        prompt_token_ids: int32 ``[n]``, token ids of the source, special tokens included.
        sequences: ``num_return_sequences`` of them, for beams best first.
        truncated: whether the source was truncated to the artifact's maximum length.
        timings: timings of the request; not compared.
    """

    prompt_token_ids: np.ndarray
    sequences: tuple[GeneratedSequence, ...]
    truncated: bool
    timings: Timings

    @property
    def num_input_tokens(self) -> int:
        """Number of tokens of the source."""
        return len(self.prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        """Number of generated tokens in all returned sequences."""
        return sum(len(sequence.logprobs) for sequence in self.sequences)

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

    @property
    def sequences_score(self) -> float | None:
        return self.sequences[0].sequences_score

    @property
    def logprobs(self) -> np.ndarray:
        return self.sequences[0].logprobs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerateOutput):
            return NotImplemented
        same_source = np.array_equal(self.prompt_token_ids, other.prompt_token_ids)
        return same_source and (self.sequences, self.truncated) == (other.sequences, other.truncated)

    def __hash__(self) -> int:
        return hash(self.sequences)

    def __repr__(self) -> str:
        best, more = self.sequences[0], len(self.sequences) - 1
        content = (
            f"token_ids={describe_array(best.token_ids)}" if best.text is None else f"text={best.text!r}"
        )
        return (
            f"GenerateOutput({content}, score={best.score:.4f}, input_tokens={self.num_input_tokens}, "
            f"generated_tokens={self.num_generated_tokens}, finish_reason={best.finish_reason!r}"
            + (f", other_sequences={more}" if more else "")
            + ", truncated=True" * self.truncated
            + ")"
        )
