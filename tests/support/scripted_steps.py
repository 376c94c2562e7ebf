"""A layer between an engine and its graphs: a test decides what happens at which step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from precast.runtime.batch_result import BatchResult
from precast.runtime.futures import ResultFuture, deadline_of
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.request import Request
from precast.runtime.generation.steps import Steps
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from tests.support.generation import Model, request
from tests.support.random_requests import ASKED, Asked, answer_alone, assert_empty, assert_same_answer


class ScriptedSteps:
    """Calls the real graphs, and before each of them what the test has set.

    Attributes:
        before_step: called with the number of the step and the batch; it may raise, as a graph may.
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
def scripted(model: Model, **options: int) -> Iterator[tuple[GenerationCore, ScriptedSteps]]:
    """An engine, and the layer between it and its graphs."""
    made: list[ScriptedSteps] = []

    def wrap(steps: Steps) -> ScriptedSteps:
        made.append(ScriptedSteps(steps))
        return made[0]

    engine = model.engine(wrap=wrap, **options)
    yield engine, made[0]
    engine.close()


def ask(engine: GenerationCore, one: Asked, timeout: float | None = None) -> Request:
    """Queue a request and go on."""
    made = request(list(one[0]), one[1], future=ResultFuture(deadline_of(timeout)))
    engine.offer(made)
    return made


def encode(engine: GenerationCore, tokens: Sequence[Tokens]) -> list[EncoderOutput]:
    """Run sources through the encoder alone, in one batch, and wait for their outputs."""
    results: BatchResult[EncoderOutput] = BatchResult(len(tokens))
    engine.encode(tokens, results, range(len(tokens)))
    results.wait(deadline_of(30))
    outputs = results.outcomes()
    assert all(isinstance(output, EncoderOutput) for output in outputs), outputs
    return [output for output in outputs if isinstance(output, EncoderOutput)]


def assert_serves(engine: GenerationCore, alone: GenerationCore) -> None:
    """Check that new requests get their outputs and that nothing is held afterwards."""
    for made, one in [(ask(engine, one), one) for one in ASKED]:
        assert_same_answer(made.future.result(timeout=60), answer_alone(alone, one))
    wait_until_idle(engine)
    assert_empty(engine)


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that another thread does soon."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def wait_until_idle(engine: GenerationCore) -> None:
    """Wait until nothing runs or waits: an output is there a moment before its sequences are released."""
    wait_until(lambda: not engine.stats().running and not engine.stats().waiting)


def _nothing(*_: Any) -> None:
    pass
