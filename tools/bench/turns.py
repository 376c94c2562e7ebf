"""Contenders that take turns, each alone in a process of its own.

In one process every contender would bring its own threads of OpenMP threads, and the teams would wait for one
another at the processor: a cost that nobody pays who runs one engine.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

LEAST = 0.1
"""Seconds of a turn, not counting its first call."""
LONG = 1.0
"""Seconds of a call that makes up for its own beginning, and is done once."""
Work = TypeVar("Work")
"""What a contender is given; must pickle, as its answer must."""
Answer = TypeVar("Answer")


class ContenderEnded(RuntimeError):
    """A process ended before it answered: its engine failed, or the system took its memory."""


class Turns(Generic[Work, Answer]):
    """Processes that wait for their turn; a context manager that ends them.

    Args:
        makers: each makes a contender, in its own process; must pickle.
        rest: seconds before each turn, in which the threads of the one before may fall asleep: a threads of
            OpenMP goes on looking for work for some milliseconds, or for 200.
    """

    def __init__(
        self, makers: Mapping[str, Callable[[], Callable[[Work], Answer]]], rest: float = 0.0
    ) -> None:
        self._rest = rest
        context = multiprocessing.get_context("spawn")
        self._connections: dict[str, Connection] = {}
        self._stack = ExitStack()
        for name, make in makers.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(make, theirs), daemon=True)
            process.start()
            theirs.close()
            self._stack.callback(process.join)
            self._stack.callback(ours.close)
            self._connections[name] = ours

    def __enter__(self) -> Turns[Work, Answer]:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def leave(self, name: str) -> None:
        """End a contender; the others go on."""
        self._connections.pop(name).close()

    def answers(self, work: Work) -> dict[str, Answer]:
        """What each contender makes of ``work``, one after the other."""
        return {name: self._ask(name, work)[1] for name in self._connections}

    def seconds(self, work: Work, rounds: int) -> dict[str, list[float]]:
        """Seconds of each contender in each of ``rounds`` rounds, after one that does not count."""
        return self.measured(work, rounds)[1]

    def measured(self, work: Work, rounds: int) -> tuple[dict[str, Answer], dict[str, list[float]]]:
        """The answers of a round that does not count, and the seconds of ``rounds`` more."""
        answers = self.answers(work)
        taken: dict[str, list[float]] = {name: [] for name in self._connections}
        for _ in range(rounds):
            for name in self._connections:
                taken[name].append(self._ask(name, work)[0])
        return answers, taken

    def _ask(self, name: str, work: Work) -> tuple[float, Answer]:
        connection = self._connections[name]
        time.sleep(self._rest)
        connection.send(work)
        try:
            taken: tuple[float, Answer] = connection.recv()
        except EOFError as error:
            raise ContenderEnded(f"{name} ended before it answered; its own error stands above") from error
        return taken


def _serve(make: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    contender = make()
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        connection.send(_timed(contender, work))


def _timed(contender: Callable[[Any], Any], work: Any) -> tuple[float, Any]:
    """Seconds and the answer. The work is done again, and the median of that counts.

    The first call of a turn finds caches full of what others left there; nobody who is busy pays for that.
    """
    started = time.perf_counter()
    answer = contender(work)
    first = time.perf_counter() - started
    if first > LONG:
        return first, answer
    taken: list[float] = []
    while sum(taken) < LEAST:
        started = time.perf_counter()
        contender(work)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), answer
