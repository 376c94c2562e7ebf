"""Something between an engine and its graphs: what happens at which step is the test's to say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.steps import Steps
from precast.runtime.generation.worker import GenerationWorker
from tests.support.generation import Model, request
from tests.support.random_requests import ASKED, Asked, answer_alone, assert_empty, assert_same_answer


class ScriptedSteps:
    """Calls the real graphs, and before each of them what the test has put there.

    Attributes:
        before_step: called with the number of the step and the batch; it may raise, as a graph does.
        after_step: called likewise.
        before_encode: called with the number of the encoding; the warmup when the engine starts is none.
        after_encode: called with the slots in the cross kv_cache of each source.
        kv_cache: the tensors that the graphs write to, by name.
        state: of the rows.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.kv_cache = steps._kv_cache
        self.state = steps._state
        self.steps = 0
        self.source_batches = -1
        self.before_step: Callable[[int, ActiveBatch], object] = _nothing
        self.after_step: Callable[[int, ActiveBatch], object] = _nothing
        self.before_encode: Callable[[int], object] = _nothing
        self.after_encode: Callable[[Sequence[np.ndarray]], object] = _nothing

    def encode_sources(self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.source_batches += 1
        if self.source_batches:
            self.before_encode(self.source_batches)
        found = self._steps.encode_sources(sources, slots)
        if self.source_batches:
            self.after_encode(slots)
        return found

    def step(self, batch: ActiveBatch) -> None:
        self.steps += 1
        self.before_step(self.steps, batch)
        self._steps.step(batch)
        self.after_step(self.steps, batch)


class Gate:
    """Holds the engine's thread before a step until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self.open.wait(60), "the test never opened the gate"


@contextmanager
def scripted(model: Model, **options: int) -> Iterator[tuple[GenerationWorker, ScriptedSteps]]:
    """An engine and what lies between it and its graphs."""
    made: list[ScriptedSteps] = []

    def wrap(steps: Steps) -> ScriptedSteps:
        made.append(ScriptedSteps(steps))
        return made[0]

    engine = model.engine(wrap=wrap, **options)
    yield engine, made[0]
    engine.close()


def ask(engine: GenerationWorker, one: Asked, timeout: float | None = None) -> GenerateRequest:
    """Offer a request and go on."""
    made = request(list(one[0]), one[1])
    engine.offer(made, timeout)
    return made


def assert_serves(engine: GenerationWorker, alone: GenerationWorker) -> None:
    """Everybody who comes now is answered, and nothing stays behind."""
    for made, one in [(ask(engine, one), one) for one in ASKED]:
        assert_same_answer(made.future.result(timeout=60), answer_alone(alone, one))
    wait_until_idle(engine)
    assert_empty(engine)


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what another thread does soon."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def wait_until_idle(engine: GenerationWorker) -> None:
    """Until nothing runs or waits: an answer is there a moment before its rows are given back."""
    wait_until(lambda: not engine.stats().running and not engine.stats().waiting)


def _nothing(*_: Any) -> None:
    pass
