"""What is generated: from token ids to token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Job:
    """One call.

    Attributes:
        sources: token ids of each source.
        new_tokens: generated for each source; end tokens are forbidden until then.
        beams: 1 for greedy search.
    """

    sources: tuple[tuple[int, ...], ...]
    new_tokens: int
    beams: int


Targets: TypeAlias = list[list[int]]
"""Generated token ids of the best sequence of each source, the start token left out."""


class GenerationEngine(Protocol):
    """A contender's engine for an encoder-decoder."""

    def generate(self, job: Job) -> Targets:
        """The best target of each source."""
        ...

    def first_token(self, job: Job) -> float | None:
        """Seconds until a caller holds the first token of the only source; None if it cannot be had alone."""
        ...


def agreement(found: Targets, wanted: Targets) -> float:
    """The share of tokens that are equal, index by index; a index that one of them lacks is not equal."""
    equal = sum(
        ours == theirs
        for one, other in zip(found, wanted, strict=True)
        for ours, theirs in zip(one, other, strict=False)
    )
    return equal / sum(max(len(one), len(other)) for one, other in zip(found, wanted, strict=True))
