"""Finished requests leave no reference cycles.

Cycles of outputs, futures and errors would keep scores and token ids in memory until the garbage collector
runs, which is rare in a process with many objects.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch import Tensor

import precast
from precast.runtime.errors import InferenceError
from precast.runtime.generation.engine import Seq2Seq
from tests.support.generating import t5
from tests.support.scripted_steps import wait_until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seq2Seq]:
    with precast.Seq2Seq.load(t5(tmp_path_factory.mktemp("t5")).artifact) as loaded:
        yield loaded


def raising(_: Tensor, scores: Tensor) -> Tensor:
    raise ValueError(f"no scores of {tuple(scores.shape)}")


def failing(**options: Any) -> Callable[[Seq2Seq], None]:
    def call(engine: Seq2Seq) -> None:
        with pytest.raises(InferenceError):
            engine.generate(["the cat", "sat"], **options)

    return call


def drop_a_stream(engine: Seq2Seq) -> None:
    next(engine.stream("the cat", eos_token_id=[]), None)


def cancel(engine: Seq2Seq) -> None:
    engine.submit("the cat").cancel()


KINDS: dict[str, Callable[[Seq2Seq], object]] = {
    "greedy": lambda engine: engine.generate("the cat"),
    "beams": lambda engine: engine.generate(["the cat", "sat"], num_beams=3, num_return_sequences=2),
    "samples": lambda engine: engine.generate("the cat", do_sample=True, seed=1, num_return_sequences=2),
    "stream": lambda engine: list(engine.stream("the cat")),
    "dropped stream": drop_a_stream,
    "cancelled": cancel,
    "encode": lambda engine: engine.encode(["the cat", "sat"]),
    "processor raises": failing(logits_processor=[raising]),
    "one of two raises": lambda engine: engine.generate(
        ["the cat", "sat"], parameters=[{"logits_processor": [raising]}, {}], return_exceptions=True
    ),
    "deadline": failing(timeout=0.0),
    "too long": failing(truncate=False, parameters=[{}, {"max_length": 10**6}]),
    "too many beams": failing(num_beams=10**3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_request_leaves_no_reference_cycles(engine: Seq2Seq, kind: str) -> None:
    def once() -> None:
        KINDS[kind](engine)
        wait_until(lambda: not engine.stats().running and not engine.stats().waiting)

    once()
    gc.collect()
    gc.disable()
    try:
        found = []
        for _ in range(3):
            once()
            once()
            found.append(gc.collect())
        # Garbage of other tests may be collected too, but not every time.
        assert min(found) == 0, found
    finally:
        gc.enable()
