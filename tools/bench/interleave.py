"""Contenders that are measured in interleaved rounds, each in a process of its own.

In one process the OpenMP thread pools of all contenders would contend for the cores, a cost that an
application with one engine does not have.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

MIN_SECONDS = 0.1
"""Shortest time for which work is repeated in one round, not counting its first call."""
LONG_CALL = 1.0
"""Seconds from which one call is measured alone: the cold caches of its beginning do not matter."""
Work = TypeVar("Work")
"""What a contender is given; must be picklable, as must its output."""
Output = TypeVar("Output")


class ContenderExited(RuntimeError):
    """A contender's process exited before it returned an output: it failed or ran out of memory."""


class InterleavedProcesses(Generic[Work, Output]):
    """One process for each contender, called one after the other; a context manager that ends them.

    Args:
        makers: functions that create a contender in its own process; must be picklable.
        rest: seconds to wait before each call. OpenMP threads of the previous contender spin for up to 200 ms
            before they sleep.
    """

    def __init__(
        self, makers: Mapping[str, Callable[[], Callable[[Work], Output]]], rest: float = 0.0
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

    def __enter__(self) -> InterleavedProcesses[Work, Output]:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def remove(self, name: str) -> None:
        """End the process of one contender."""
        self._connections.pop(name).close()

    def outputs(self, work: Work) -> dict[str, Output]:
        """Return the output of each contender for ``work``."""
        return {name: self._call(name, work)[1] for name in self._connections}

    def seconds(self, work: Work, rounds: int) -> dict[str, list[float]]:
        """Return the seconds of each contender in each of ``rounds`` rounds, after a warmup round."""
        return self.measured(work, rounds)[1]

    def measured(self, work: Work, rounds: int) -> tuple[dict[str, Output], dict[str, list[float]]]:
        """Return the outputs of a warmup round, and the seconds of ``rounds`` rounds after it."""
        outputs = self.outputs(work)
        seconds: dict[str, list[float]] = {name: [] for name in self._connections}
        for _ in range(rounds):
            for name in self._connections:
                seconds[name].append(self._call(name, work)[0])
        return outputs, seconds

    def _call(self, name: str, work: Work) -> tuple[float, Output]:
        connection = self._connections[name]
        time.sleep(self._rest)
        connection.send(work)
        try:
            timed: tuple[float, Output] = connection.recv()
        except EOFError as error:
            raise ContenderExited(
                f"{name} exited before it returned an output; its error is printed above"
            ) from error
        return timed


def _serve(make: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    contender = make()
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        connection.send(_timed(contender, work))


def _timed(contender: Callable[[Any], Any], work: Any) -> tuple[float, Any]:
    """Return the median seconds of repeated calls, and the output.

    The first call is not counted, because it finds the CPU caches filled by other contenders.
    """
    started = time.perf_counter()
    output = contender(work)
    first = time.perf_counter() - started
    if first > LONG_CALL:
        return first, output
    seconds: list[float] = []
    while sum(seconds) < MIN_SECONDS:
        started = time.perf_counter()
        contender(work)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), output
