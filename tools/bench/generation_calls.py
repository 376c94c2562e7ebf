"""One call of ``generate``, measured for all contenders in interleaved rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.jobs import Job, agreement
from precast.tools.bench.peers.work import Generate, Work


@dataclass(frozen=True)
class MeasuredCall:
    """The speed and accuracy of one contender in one call.

    Attributes:
        seconds: seconds of each round.
        tokens_per_s: throughput at the median; tokens count once per source, whatever the number of beams.
        token_agreement: share of tokens that equal those of the reference.
    """

    seconds: list[float]
    tokens_per_s: float
    token_agreement: float

    @property
    def median(self) -> float:
        """Median seconds of all rounds."""
        return statistics.median(self.seconds)


def measure_call(
    processes: InterleavedProcesses[Work, Any], job: Job, rounds: int, reference: str
) -> dict[str, MeasuredCall]:
    """Measure one call of every contender.

    Args:
        processes: the contenders.
        job: the call.
        rounds: number of measured rounds, after a warmup round.
        reference: name of the contender whose tokens are the reference.
    """
    outputs, seconds = processes.measured(Generate(job), rounds)
    tokens = len(job.sources) * job.new_tokens
    return {
        name: MeasuredCall(
            taken,
            round(tokens / statistics.median(taken), 1),
            round(agreement(outputs[name], outputs[reference]), 4),
        )
        for name, taken in seconds.items()
    }
