"""The threads that compute a graph on a CPU: how many, and on which cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Team:
    """OpenMP's threads of one engine.

    Attributes:
        size: of the team, the engine's own thread included.
        cores: that they may run on; None leaves it to the system.
    """

    size: int
    cores: tuple[int, ...] | None = None

    def gather(self) -> None:
        """To be called by the thread that computes, before anything is: its team inherits what it sets."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)  # 0: this thread alone
        torch.set_num_threads(self.size)


def team_of(num_threads: int | None, cores: Sequence[int] | None) -> Team:
    """A thread for each core where cores are named, else as many as torch would take."""
    size = num_threads or (len(cores) if cores is not None else torch.get_num_threads())
    return Team(size, None if cores is None else tuple(cores))
