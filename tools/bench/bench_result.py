"""What ``precast bench`` found, as its JSON file holds it. Strict: a report never reads half a file."""

from __future__ import annotations

from typing import Any, Literal

from precast.artifacts.base import StrictModel
from precast.graphs.encode import Task

NAME = "bench"
Input = Literal["ids", "texts"]
"""The model alone, or from strings."""
INPUTS: tuple[Input, ...] = ("ids", "texts")


class Row(StrictModel):
    """One contender in one setting. Ratios say how many times as fast it is; above 1 is faster."""

    contender: str
    batch: int
    speedup_vs_hf_fp32: float
    best_peer: str | None
    """The fastest contender that is none of ours; None where no other was measured."""
    speedup_vs_best_peer: float | None


class EncoderRow(Row):
    texts: str
    """Name of the set."""
    input: Input
    median_ms: float
    """Of one call of ``batch`` texts."""
    lower_quartile_ms: float
    upper_quartile_ms: float
    texts_per_s: float
    min_cosine: float | None
    """Against HF fp32, over all answers; None where they have fewer than 8 numbers."""
    relative_error: float
    """The largest difference to HF fp32, relative to the largest number of its answers."""


class GenerationRow(Row):
    beams: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    tokens_per_s: float
    token_agreement: float
    """The share that is HF fp32's."""


class TextSet(StrictModel):
    name: str
    texts: int
    tokens: int
    padding: dict[str, float]
    """By batch: tokens of padded batches for each real one."""


class ContenderInfo(StrictModel):
    """What was measured once for each contender."""

    name: str
    peer: str
    precision: str
    cold_start_s: dict[str, float]
    """Medians of the phases of a fresh process."""
    peak_memory_bytes: int | None
    tokenization_ms: dict[str, float]
    """By set of texts: all of it at once."""
    first_token_ms: float | None
    """None for encoders, and for who cannot stream."""


class SkippedInfo(StrictModel):
    name: str
    reason: str


class Arrival(StrictModel):
    """Requests of many lengths to one of ours."""

    contender: str
    arrival: str
    way: str
    tokens_per_s: float
    p50_s: float
    p95_s: float


class BenchResult(StrictModel):
    """All of it."""

    benchmark: str
    machine: dict[str, Any]
    versions: dict[str, str]
    model: str
    task: Task
    rounds: int
    threads: int
    contenders: tuple[ContenderInfo, ...]
    skipped: tuple[SkippedInfo, ...]
    texts: tuple[TextSet, ...]
    rows: tuple[EncoderRow, ...] | tuple[GenerationRow, ...]
    arrivals: tuple[Arrival, ...]

    def encoder_rows(self) -> list[EncoderRow]:
        return [row for row in self.rows if isinstance(row, EncoderRow)]

    def generation_rows(self) -> list[GenerationRow]:
        return [row for row in self.rows if isinstance(row, GenerationRow)]

    def ours(self) -> list[str]:
        """Names of our artifacts."""
        return [one.name for one in self.contenders if one.peer == "precast"]


def read(text: str) -> BenchResult:
    """A result file.

    Raises:
        ValidationError: it is none.
    """
    return BenchResult.model_validate_json(text)
