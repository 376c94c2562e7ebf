"""Generation jobs: token ids in, token ids out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Job:
    """One call of ``generate``.

    Attributes:
        sources: token ids of each source.
        new_tokens: tokens to generate for each source; end tokens are suppressed until then.
        beams: 1 for greedy search.
    """

    sources: tuple[tuple[int, ...], ...]
    new_tokens: int
    beams: int


Targets: TypeAlias = list[list[int]]
"""Generated token ids of the best sequence of each source, without the start token."""


class GenerationEngine(Protocol):
    """The engine of a contender for encoder-decoders."""

    def generate(self, job: Job) -> Targets:
        """Return the best target of each source."""
        ...

    def first_token(self, job: Job) -> float | None:
        """Return the seconds until the first token of the only source; None if the engine cannot stream."""
        ...


def agreement(targets: Targets, expected: Targets) -> float:
    """Return the share of positions with equal tokens; a position that only one target has is not equal."""
    pairs = list(zip(targets, expected, strict=True))
    equal = sum(ours == theirs for pair in pairs for ours, theirs in zip(*pair, strict=False))
    return equal / sum(max(map(len, pair)) for pair in pairs)
