"""A contender of the benchmark, and the model that all contenders run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from precast.graphs.encode import Task

Precision = Literal["fp32", "bf16", "fp16", "int8"]
OURS = "precast"
"""Peer name of precast artifacts."""
REFERENCE = "HF eager fp32"
"""Name of the contender whose outputs are the reference; it is always measured."""


@dataclass(frozen=True)
class Subject:
    """The model that every contender runs.

    Attributes:
        model: directory of the checkpoint, or a hub id.
        task: task of the artifacts.
        pooling: for ``embed``, the pooling modes of the artifacts.
        normalize: for ``embed``, whether embeddings have unit length.
        max_length: maximum tokens of one input; longer texts are truncated.
        tokenizer: the artifact's ``tokenizer.json``, for peers without a tokenizer; the compiler checked it
            against the checkpoint. None if the artifact has none.
        truncation_side: the side on which a text is truncated.
        pad_id: token id of the padding.
        threads: threads of each contender.
        folder: directory for converted models.
    """

    model: str
    task: Task
    pooling: tuple[str, ...]
    normalize: bool
    max_length: int
    tokenizer: Path | None
    truncation_side: Literal["left", "right"]
    pad_id: int
    threads: int
    folder: Path

    @property
    def per_token(self) -> bool:
        """Whether an output has a row for each token."""
        return self.task in ("hidden", "token-classify")


@dataclass(frozen=True)
class Contender:
    """One way to run the model.

    Attributes:
        name: name in tables.
        peer: name of the peer in ``--against``; ``precast`` for artifacts.
        precision: precision of the computation.
        make: function that creates the engine in its own process; must be picklable.
        imports: modules that a new process imports before it loads the model.
        prepare: function that writes the files that ``make`` reads. It runs in another process, so that
            conversion affects neither times nor memory. None if there are no files.
    """

    name: str
    peer: str
    precision: Precision
    make: Callable[[], Any]
    imports: tuple[str, ...]
    prepare: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Skipped:
    """A contender or peer that is not measured, with the reason."""

    name: str
    reason: str


class UnsupportedTask(Exception):
    """A peer does not support the task; the message says what it lacks."""
