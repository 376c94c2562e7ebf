"""Contenders that take turns, each alone in a process of its own.

In one process every contender would bring its own team of OpenMP threads, and the teams would wait for one
another at the processor: a cost that nobody pays who runs one engine.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection

import numpy as np

Contender = Callable[[list[str]], np.ndarray]
"""Texts to normalized embeddings ``[n, size]``."""

Maker = Callable[[], Contender]
"""Makes a contender, in its own process; must pickle."""


class Turns:
    """Processes that wait for their turn; a context manager that ends them."""

    def __init__(self, makers: Mapping[str, Maker]) -> None:
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

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def answers(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """What each contender makes of ``texts``, one after the other."""
        return {name: self._ask(name, texts)[1] for name in self._connections}

    def seconds(self, texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
        """Seconds of each contender in each of ``rounds`` rounds, after one that does not count."""
        self.answers(texts)
        taken: dict[str, list[float]] = {name: [] for name in self._connections}
        for _ in range(rounds):
            for name in self._connections:
                taken[name].append(self._ask(name, texts)[0])
        return taken

    def _ask(self, name: str, texts: Sequence[str]) -> tuple[float, np.ndarray]:
        connection = self._connections[name]
        connection.send(list(texts))
        taken: tuple[float, np.ndarray] = connection.recv()
        return taken


def _serve(make: Maker, connection: Connection) -> None:
    contender = make()
    while True:
        try:
            texts = connection.recv()
        except EOFError:
            return
        started = time.perf_counter()
        answer = contender(texts)
        connection.send((time.perf_counter() - started, answer))
