"""Requests that start, end and are cancelled while others run: outputs equal those of an idle engine."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.request import Request
from precast.runtime.generation.steps import Steps
from tests.support.generation import Model, request
from tests.support.random_requests import (
    SPECS,
    RequestSpec,
    assert_empty,
    assert_same_output,
    beams,
    output_alone,
    request_specs,
)
from tests.support.script import Moment, Script
from tests.support.scripted_steps import ScriptedSteps, encode, scripted, submit, wait_until_idle


@given(
    moments=st.lists(
        st.tuples(st.integers(0, 25), request_specs(), st.none() | st.none() | st.integers(0, 12)),
        min_size=1, max_size=9,
    ),
    self_blocks=st.sampled_from([8, 9, 12, 40]),
    cross_blocks=st.sampled_from([2, 3, 12]),
    max_batch_delay_steps=st.integers(0, 4),
    steps_per_sync=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_outputs_equal_those_of_an_idle_engine(
    model: Model,
    alone: GenerationCore,
    moments: list[Moment],
    self_blocks: int,
    cross_blocks: int,
    max_batch_delay_steps: int,
    steps_per_sync: int,
) -> None:
    script = Script(moments)

    def wrap(steps: Steps) -> ScriptedSteps:
        scripted = ScriptedSteps(steps)
        scripted.before_step = lambda step, _: script.act(step)
        return scripted

    engine = model.engine(
        self_blocks=self_blocks, cross_blocks=cross_blocks, max_batch_delay_steps=max_batch_delay_steps,
        steps_per_sync=steps_per_sync, wrap=wrap,
    )  # fmt: skip
    script.engine = engine
    script.finish()
    script.assert_as_alone(alone)
    assert_empty(engine)
    stats = engine.stats()
    assert (stats.cancelled, stats.failed) == (len(script.cancelled), 0)
    assert stats.requests == len(moments) - len(script.cancelled)
    engine.close()


@given(st.lists(request_specs(), min_size=12, max_size=24), st.integers(0, 4), st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_many_threads_ask_one_engine(
    model: Model,
    alone: GenerationCore,
    many: list[RequestSpec],
    max_batch_delay_steps: int,
    steps_per_sync: int,
) -> None:
    engine = model.engine(
        self_blocks=10,
        cross_blocks=4,
        max_batch_delay_steps=max_batch_delay_steps,
        steps_per_sync=steps_per_sync,
    )
    made = [request(list(one[0]), one[1]) for one in many]

    def add(mine: list[Request]) -> None:
        for each in mine:
            engine.add(each)

    threads = [threading.Thread(target=add, args=(made[first::3],)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, mine in zip(many, made, strict=True):
        assert_same_output(mine.future.result(timeout=60), output_alone(alone, one))
    wait_until_idle(engine)
    assert_empty(engine)
    engine.close()


def test_equal_requests_that_use_all_sequences(model: Model, alone: GenerationCore) -> None:
    """Many equal requests: none starves, and all outputs are the same."""
    one: RequestSpec = ((5, 9, 4, 30, 2), beams(3, 16))
    engine = model.engine(self_blocks=24, cross_blocks=8)
    made = [request(list(one[0]), one[1]) for _ in range(20)]
    for each in made:
        engine.offer(each)
    expected = output_alone(alone, one)
    for each in made:
        assert_same_output(each.future.result(timeout=60), expected)
    wait_until_idle(engine)
    assert_empty(engine)
    engine.close()


def test_encoding_sources_while_requests_decode(model: Model, alone: GenerationCore) -> None:
    with scripted(model, max_batch_delay_steps=0) as (engine, _):
        made = [submit(engine, one) for one in SPECS]
        tokens = [one.tokens for one in made]
        hidden_states = [output.hidden for output in encode(engine, tokens)]
        for one, spec in zip(made, SPECS, strict=True):
            assert_same_output(one.future.result(timeout=30), output_alone(alone, spec))
        for hidden, output in zip(hidden_states, encode(alone, tokens), strict=True):
            expected = output.hidden
            assert hidden is not None and expected is not None and hidden.shape == expected.shape
            assert abs(hidden - expected).max() < 1e-4
