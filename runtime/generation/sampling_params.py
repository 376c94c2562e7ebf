"""What one request asks of the decoder, every default filled in and every value checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["greedy", "multinomial", "beam"]


@dataclass(frozen=True)
class TokenBias:
    """Adds ``value`` to the score of ``token`` wherever ``prefix`` was written just before it.

    It acts while the row's length (start token and prefix included) is from ``first`` to ``last``, and above
    that of ``prefix``: Hugging Face never lets a sequence begin with the start token.
    """

    token: int
    value: float
    prefix: tuple[int, ...] = ()
    first: int = 1
    last: int = (1 << 31) - 1
    after: bool = False
    """After forced tokens (suppressed tokens) and not before them (biases, bad words, minimal lengths)."""


@dataclass(frozen=True)
class SamplingParams:
    """One request's decoding. Names are those of Hugging Face's GenerationConfig, lengths count positions."""

    mode: Mode
    num_beams: int
    num_return_sequences: int
    prefix: tuple[int, ...]
    """The start token and whatever the target shall begin with."""
    max_length: int
    """Positions of a row, the prefix included."""
    eos_token_ids: tuple[int, ...]
    token_biases: tuple[TokenBias, ...] = ()
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    """As it is applied: HF's processor uses the inverse of what the user passes."""
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0
    top_k: int = 0
    """0 where every token may be drawn."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int = 0
    """Of the first row; row ``i`` of a request draws by ``seed + i``."""
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    renormalize_logits: bool = False

    @property
    def rows(self) -> int:
        """Rows of state that the request needs."""
        return self.num_beams if self.mode == "beam" else self.num_return_sequences

    @property
    def needs_processing(self) -> bool:
        """Whether its logits must pass through the ``token_biases`` graph; beams always, for log-probabilities."""
        return self.mode == "beam" or any(
            (
                self.token_biases,
                self.repetition_penalty != 1.0,
                self.encoder_repetition_penalty != 1.0,
                self.no_repeat_ngram_size,
                self.encoder_no_repeat_ngram_size,
                self.forced_bos_token_id is not None,
                self.forced_eos_token_ids,
            )
        )
