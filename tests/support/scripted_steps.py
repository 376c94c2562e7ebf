"""Steps with hooks: a test decides what happens at which decode step of an engine."""

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
from tests.support.random_requests import SPECS, RequestSpec, assert_empty, assert_same_output, output_alone

TIMEOUT = 60
"""Seconds after which a test fails that waits for an event. No test depends on the speed of the machine."""


class ScriptedSteps:
    """Calls the real graphs, and hooks before and after each of them.

    Attributes:
        before_step: Called with the number of the step and the batch; it may raise, as a graph may.
        after_step: Called with the same arguments.
        before_encode: Called with the number of the encoding, which does not count the warmup.
        after_encode: Called with the cross-attention slots of each source.
        kv_cache: Tensors of the KV cache by name.
        state: The decoder state.
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
        hidden = self._steps.encode_sources(sources, slots)
        if self.source_batches:
            self.after_encode(slots)
        return hidden

    def step(self, batch: ActiveBatch) -> None:
        self.steps += 1
        self.before_step(self.steps, batch)
        self._steps.step(batch)
        self.after_step(self.steps, batch)


class Gate:
    """Blocks the engine's thread until the test sets ``open``."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, *_: object) -> None:
        self.reached.set()
        assert self.open.wait(TIMEOUT), "the test never opened the gate"


@contextmanager
def scripted(model: Model, **options: int) -> Iterator[tuple[GenerationCore, ScriptedSteps]]:
    """Yield an engine and its hooks."""
    made: list[ScriptedSteps] = []

    def wrap(steps: Steps) -> ScriptedSteps:
        made.append(ScriptedSteps(steps))
        return made[0]

    engine = model.engine(wrap=wrap, **options)
    yield engine, made[0]
    engine.close()


def submit(engine: GenerationCore, one: RequestSpec, timeout: float | None = None) -> Request:
    """Queue a request and return it without waiting."""
    made = request(list(one[0]), one[1], future=ResultFuture(deadline_of(timeout)))
    engine.offer(made)
    return made


def encode(engine: GenerationCore, tokens: Sequence[Tokens]) -> list[EncoderOutput]:
    """Encode sources in one batch and return their outputs."""
    results: BatchResult[EncoderOutput] = BatchResult(len(tokens))
    engine.encode(tokens, results, range(len(tokens)))
    results.wait(deadline_of(TIMEOUT))
    outputs = results.outcomes()
    assert all(isinstance(output, EncoderOutput) for output in outputs), outputs
    return [output for output in outputs if isinstance(output, EncoderOutput)]


def assert_serves(engine: GenerationCore, alone: GenerationCore) -> None:
    """Check that new requests get their outputs and that nothing is held afterwards."""
    for made, one in [(submit(engine, one), one) for one in SPECS]:
        assert_same_output(made.future.result(timeout=TIMEOUT), output_alone(alone, one))
    wait_until_idle(engine)
    assert_empty(engine)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made a condition true."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"the condition is still false after {TIMEOUT} seconds"
        time.sleep(0.001)


def wait_until_idle(engine: GenerationCore) -> None:
    """Wait until no request runs or waits: sequences are released shortly after the output is set."""
    wait_until(lambda: not engine.stats().running and not engine.stats().waiting)


def _nothing(*_: Any) -> None:
    pass
