"""One call of ``generate``, by everybody in turns."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from precast.tools.bench.peers.jobs import Job, agreement
from precast.tools.bench.peers.work import Generate, Work
from precast.tools.bench.interleave import InterleavedProcesses


@dataclass(frozen=True)
class Called:
    """What one contender made of a call.

    Attributes:
        seconds: of each round.
        tokens_per_s: at the median; tokens count once for each source, whatever the number of beams.
        token_agreement: the share that is the reference's.
    """

    seconds: list[float]
    tokens_per_s: float
    token_agreement: float

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def measure_call(processes: InterleavedProcesses[Work, Any], job: Job, rounds: int, reference: str) -> dict[str, Called]:
    """A call by everybody.

    Args:
        processes: the contenders.
        job: the call.
        rounds: that count, after one that does not.
        reference: whose tokens are right.
    """
    answers, seconds = processes.measured(Generate(job), rounds)
    tokens = len(job.sources) * job.new_tokens
    return {
        name: Called(
            taken,
            round(tokens / statistics.median(taken), 1),
            round(agreement(answers[name], answers[reference]), 4),
        )
        for name, taken in seconds.items()
    }
