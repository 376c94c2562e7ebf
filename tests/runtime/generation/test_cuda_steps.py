"""Generation on a simulated asynchronous device: the same tokens, and no missing synchronization."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precast.runtime.errors import DeviceFailedError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.request import Request
from precast.runtime.generation.stepper import Launch
from precast.runtime.io.tokens import Tokens
from tests.support.fake_device import FakeDevice, FakeStream
from tests.support.fake_generation import fake_engine
from tests.support.generation import Model, request
from tests.support.random_requests import (
    SPECS,
    assert_empty,
    assert_same_output,
    beams,
    endless,
    greedy,
    output_alone,
    request_specs,
)
from tests.support.script import Moment, Script
from tests.support.scripted_steps import encode, submit, wait_until, wait_until_idle

SEEDS = st.integers(0, 2**32 - 1)


class Told:
    """A stepper that calls a hook before every launch."""

    def __init__(self, stepper: CapturedStepper, before_launch: Any) -> None:
        self._stepper = stepper
        self._before_launch = before_launch
        self.launches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stepper, name)

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        self.launches += 1
        self._before_launch(self.launches)
        return self._stepper.launch(batch, steps)


def test_every_mode(model: Model, alone: GenerationCore) -> None:
    device = FakeDevice()
    engine = fake_engine(model, device)
    made = [request(list(source), plan) for source, plan in SPECS]
    for one in made:
        engine.offer(one)
    for spec, found in zip(SPECS, made, strict=True):
        assert_same_output(found.future.result(timeout=60), output_alone(alone, spec))
    engine.close()
    assert device.violations == []
    assert device.live_blocks(("device", "stream", "pool")) == 0, "closing keeps memory"


@given(
    moments=st.lists(
        st.tuples(st.integers(0, 12), request_specs(), st.none() | st.none() | st.integers(0, 6)),
        min_size=1, max_size=7,
    ),
    self_blocks=st.sampled_from([8, 12, 40]),
    cross_blocks=st.sampled_from([2, 3, 12]),
    max_batch_delay_steps=st.integers(0, 4),
    steps_per_sync=st.integers(1, 4),
    seed=SEEDS,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_outputs_equal_those_of_an_idle_engine(
    model: Model,
    alone: GenerationCore,
    moments: list[Moment],
    self_blocks: int,
    cross_blocks: int,
    max_batch_delay_steps: int,
    steps_per_sync: int,
    seed: int,
) -> None:
    """Requests end inside a launch, are cancelled between launches, or are encoded late."""
    device, script = FakeDevice(seed), Script(moments)
    engine = fake_engine(
        model, device, self_blocks=self_blocks, cross_blocks=cross_blocks,
        max_batch_delay_steps=max_batch_delay_steps, steps_per_sync=steps_per_sync,
        wrap=lambda stepper: Told(stepper, script.act),
    )  # fmt: skip
    script.engine = engine
    script.finish()
    script.assert_as_alone(alone)
    assert_empty(engine)
    assert engine.stats().failed == 0
    engine.close()
    assert device.violations == []


class Holding(FakeDevice):
    """A device on which one stream can be paused."""

    held: FakeStream | None = None

    def _step(self) -> bool:
        others = [stream for stream in self._streams if stream is not self.held]
        self._streams, every = others, self._streams
        try:
            return super()._step()
        finally:
            self._streams = every


def test_a_late_source_encoding_delays_no_other_request(model: Model, alone: GenerationCore) -> None:
    """Other requests keep decoding; a late one joins once its source is encoded."""
    device = Holding(3)
    first, late = ((5, 9, 4, 30, 2), endless()), SPECS[1]
    made = [request(list(one[0]), one[1]) for one in (first, late)]
    told: list[Told] = []
    joined: list[bool] = []

    def act(launch: int) -> None:
        if launch == 2:
            device.held = told[0]._encode_source._replay._pipeline.compute
            engine.offer(made[1])
        if launch > 3 and device.held is not None:
            assert engine.stats().running == 2, "its source was not encoded"
            joined.append(made[1].scheduled > 0)
        if launch == 8:
            device.held = None

    def wrap(stepper: CapturedStepper) -> Told:
        told.append(Told(stepper, act))
        return told[0]

    engine = fake_engine(model, device, max_batch_delay_steps=0, steps_per_sync=2, wrap=wrap)
    engine.offer(made[0])
    for one, found in zip((first, late), made, strict=True):
        assert_same_output(found.future.result(timeout=60), output_alone(alone, one))
    engine.close()
    assert joined == [False] * 5, "it joined before its source was encoded"
    assert device.violations == []


@pytest.mark.parametrize("seed", range(6))
def test_a_launch_that_was_not_polled_keeps_its_memory(
    model: Model, alone: GenerationCore, seed: int
) -> None:
    """All sequences of a launch were cancelled, and its slot is reused."""
    device = Holding(seed)
    device.eagerness = 0.0
    told: list[Told] = []
    first, second = request([5, 6], endless()), request([8, 9, 4], endless())
    later = [((36,), endless(17)), ((7, 7, 3), endless(13))]
    made: list[Request] = []

    def act(launch: int) -> None:
        if launch == 1:
            engine.offer(second)
        if second.scheduled and not second.future.cancelled():
            # This launch uploads the second one's sequence.
            assert first.future.cancel() and second.future.cancel()
        elif len(made) == 1:
            made.append(submit(engine, later[1]))
        elif made:
            device.held = None

    def wrap(stepper: CapturedStepper) -> Told:
        told.append(Told(stepper, act))
        return told[0]

    engine = fake_engine(model, device, max_batch_delay_steps=0, steps_per_sync=1, like=first, wrap=wrap)
    engine.offer(first)
    wait_until(lambda: second.future.cancelled())
    wait_until_idle(engine)
    # The stream of steps is paused until the slot is reused; sources are encoded meanwhile.
    device.held, device.eagerness = told[0]._stream, 0.9
    made.append(submit(engine, later[0]))
    wait_until(lambda: len(made) == 2)
    for one, found in zip(later, made, strict=True):
        assert_same_output(found.future.result(timeout=60), output_alone(alone, one))
    engine.close()
    assert device.violations == []


@pytest.mark.parametrize("steps", [3, 5])
def test_a_stop_within_a_launch(model: Model, alone: GenerationCore, steps: int) -> None:
    """No token follows the end, even inside a launch, and the sequences are free immediately."""
    device = FakeDevice(1)
    engine = fake_engine(model, device, steps_per_sync=steps, self_blocks=2, cross_blocks=2)
    for length in range(2, 12):
        one = ((7, 7, 3), endless(length))
        found = submit(engine, one).future.result(timeout=60)
        assert_same_output(found, output_alone(alone, one))
        assert len(found.sequences[0].token_ids) == length
    engine.close()
    assert device.violations == []


def test_a_cancel_between_launches(model: Model, alone: GenerationCore) -> None:
    device, victim = FakeDevice(2), request([5, 6], endless())
    after = ((36,), greedy(17))
    late: list[Any] = []

    def act(launch: int) -> None:
        if launch == 3:
            assert victim.future.cancel()
            late.append(submit(engine, after))

    engine = fake_engine(
        model,
        device,
        max_batch_delay_steps=0,
        self_blocks=2,
        cross_blocks=2,
        wrap=lambda stepper: Told(stepper, act),
    )
    engine.offer(victim)
    with pytest.raises(CancelledError):
        victim.future.result(timeout=60)
    wait_until(lambda: bool(late))
    assert_same_output(late[0].future.result(timeout=60), output_alone(alone, after))
    wait_until_idle(engine)
    assert_empty(engine)
    engine.close()
    assert device.violations == []


def test_default_requests_meet_captured_graphs(model: Model, alone: GenerationCore) -> None:
    device, plan = FakeDevice(5), beams(3, 14)
    engine = fake_engine(model, device, like=request([0], plan))
    before = engine.stats()
    assert [info.bucket for info in before.captures if info.bucket in (12, 6, 3)]
    made = [submit(engine, ((7, 7, at), plan)) for at in range(2, 9)]
    for at, one in enumerate(made):
        assert_same_output(one.future.result(timeout=60), output_alone(alone, ((7, 7, at + 2), plan)))
    assert engine.stats().captures == before.captures
    engine.close()
    assert device.violations == []


def test_a_processor_between_captured_steps(model: Model) -> None:
    """A processor receives the tokens so far and changes the next one; other requests have no processors."""
    seen: list[int] = []

    def count_up(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        scores[:] = -1.0
        scores[:, 2 + ids.shape[1]] = 5.0
        return scores

    device = FakeDevice(7)
    engine = fake_engine(model, device, steps_per_sync=3)
    counted = request([4, 5], endless(9), processors=(count_up,))
    engine.offer(counted)
    found = counted.future.result(timeout=60).sequences[0].token_ids
    assert found.tolist() == [0, *range(3, 11)] and seen == list(range(1, 9))
    engine.close()
    assert device.violations == []


def test_tokens_as_they_come(model: Model, alone: GenerationCore) -> None:
    pieces: list[np.ndarray] = []
    device = FakeDevice(8)
    engine = fake_engine(model, device, steps_per_sync=2)
    one = ((7, 7, 3), endless(13))
    made = request(list(one[0]), one[1], on_tokens=pieces.append)
    engine.offer(made)
    found = made.future.result(timeout=60)
    assert_same_output(found, output_alone(alone, one))
    np.testing.assert_array_equal(np.concatenate(pieces), found.sequences[0].token_ids[1:])
    assert max(map(len, pieces)) <= 2
    engine.close()
    assert device.violations == []


def test_encoding_sources_while_requests_decode(model: Model, alone: GenerationCore) -> None:
    device = FakeDevice(9)
    engine = fake_engine(model, device)
    made = submit(engine, SPECS[0])
    tokens = [Tokens(np.array(ids, np.int32), None) for ids in ([5, 6, 7], [8])]
    for here, there in zip(encode(engine, tokens), encode(alone, tokens), strict=True):
        found, expected = here.hidden, there.hidden
        assert found is not None and expected is not None
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_same_output(made.future.result(timeout=60), output_alone(alone, SPECS[0]))
    engine.close()
    assert device.violations == []


@given(seed=SEEDS, call=st.integers(0, 400), work=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_device_failure_anywhere_fails_the_engine(model: Model, seed: int, call: int, work: bool) -> None:
    """Running, waiting and later requests fail with the same error, which says what to do."""
    device = FakeDevice(seed, fail_work=call) if work else FakeDevice(seed, fail_call=call)
    made = [request(list(source), plan) for source, plan in SPECS]
    try:
        engine = fake_engine(model, device)
    except (DeviceFailedError, RuntimeError):
        return
    failures = []
    for one in made:
        try:
            engine.offer(one)
        except DeviceFailedError as error:
            failures.append(error)
            continue
        failure = one.future.exception(timeout=60)
        if failure is not None:
            assert isinstance(failure, DeviceFailedError) and "engine has failed" in str(failure)
            failures.append(failure)
    if failures:
        assert len(set(map(str, failures))) == 1
        with pytest.raises(DeviceFailedError):
            engine.offer(request([5], SPECS[0][1]))
    engine.close()
    assert not device.violations or failures
