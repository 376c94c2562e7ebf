"""What a contender is, and what all of them are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from precast.graphs.encode import Task

Precision = Literal["fp32", "bf16", "fp16", "int8"]
OURS = "precast"
"""The peer's name of our own artifacts."""
REFERENCE = "HF eager fp32"
"""Whose answers are right, and who is always measured."""


@dataclass(frozen=True)
class Subject:
    """The model that everybody runs.

    Attributes:
        model: the checkpoint's directory, or a hub id.
        task: of the artifacts.
        pooling: for ``embed``, the modes that the artifacts were compiled with.
        normalize: for ``embed``, whether they give unit length.
        max_length: tokens of one input; longer texts are cut.
        tokenizer: the artifact's ``tokenizer.json``, for peers that bring no tokenizer of their own;
            compiling held it against the checkpoint's. None where there is none.
        truncation_side: where a text is cut.
        pad_id: the token that fills up a batch.
        threads: of every contender.
        folder: where peers keep what they convert.
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
        """Whether an answer has a row for each token."""
        return self.task in ("hidden", "token-classify")


@dataclass(frozen=True)
class Contender:
    """One way to run the model.

    Attributes:
        name: in tables.
        peer: whose it is, as ``--against`` names it; ``precast`` for our own.
        precision: that it computes in.
        make: its engine, in its own process; must pickle.
        imports: modules that a fresh process imports before it loads.
        prepare: writes the files that ``make`` reads, in another process, so that converting is neither timed
            nor counted as memory; None where there are none.
    """

    name: str
    peer: str
    precision: Precision
    make: Callable[[], Any]
    imports: tuple[str, ...]
    prepare: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Skipped:
    """Who was not measured, and why."""

    name: str
    reason: str


class UnsupportedTask(Exception):
    """A peer has nothing that does the task; says what it lacks."""
