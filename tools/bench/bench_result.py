"""The schema of ``precast bench``'s JSON file. It is strict, so that a damaged file is never reported on."""

from __future__ import annotations

from typing import Any, Literal

from precast.artifacts.base import StrictModel
from precast.graphs.encode import Task

NAME = "bench"
Input = Literal["ids", "texts"]
"""Token ids, which measures the model alone, or texts, which includes tokenization."""
INPUTS: tuple[Input, ...] = ("ids", "texts")


class Row(StrictModel):
    """One contender in one setting. A speedup above 1 means that this contender is faster."""

    contender: str
    batch: int
    speedup_vs_hf_fp32: float
    best_peer: str | None
    """The fastest contender that is not precast; None if there is no other."""
    speedup_vs_best_peer: float | None


class EncoderRow(Row):
    texts: str
    """Name of the set of texts."""
    input: Input
    median_ms: float
    """Time of one call with ``batch`` texts."""
    lower_quartile_ms: float
    upper_quartile_ms: float
    texts_per_s: float
    min_cosine: float | None
    """Lowest cosine to HF fp32 over all outputs; None for outputs of fewer than 8 numbers."""
    relative_error: float
    """Largest difference to HF fp32, relative to the largest absolute value of its outputs."""


class GenerationRow(Row):
    beams: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    tokens_per_s: float
    token_agreement: float
    """Share of generated tokens that equal those of HF fp32."""


class TextSet(StrictModel):
    name: str
    texts: int
    tokens: int
    padding: dict[str, float]
    """By batch size: tokens of padded batches per real token."""


class ContenderInfo(StrictModel):
    """Figures of one contender that do not depend on the workload."""

    name: str
    peer: str
    precision: str
    cold_start_s: dict[str, float]
    """Median seconds of each phase of a new process."""
    peak_memory_bytes: int | None
    tokenization_ms: dict[str, float]
    """Time to tokenize a whole set of texts, by its name."""
    first_token_ms: float | None
    """None for encoders and for contenders that cannot stream."""


class SkippedInfo(StrictModel):
    name: str
    reason: str


class Arrival(StrictModel):
    """Throughput and latency of one artifact for requests of mixed lengths."""

    contender: str
    arrival: str
    batching: str
    tokens_per_s: float
    p50_s: float
    p95_s: float


class BenchResult(StrictModel):
    """The whole result."""

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
        """Return the names of the precast artifacts."""
        return [one.name for one in self.contenders if one.peer == "precast"]


def read(text: str) -> BenchResult:
    """Parse a result file.

    Raises:
        ValidationError: the text is not a valid result.
    """
    return BenchResult.model_validate_json(text)
