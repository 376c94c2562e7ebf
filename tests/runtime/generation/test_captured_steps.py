"""Generation on a device that does everything late: the same tokens, and no work that nothing orders."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.captured.stepper import CapturedStepper
from precast.runtime.generation.stepper import Launch
from precast.runtime.generation.worker import GenerationWorker
from tests.support.drawn_requests import ASKED, answer_alone, asked, assert_empty, assert_same_answer
from tests.support.fake_device import FakeDevice
from tests.support.fake_generation import fake_engine
from tests.support.generation import Model, request
from tests.support.script import Moment, Script

SEEDS = st.integers(0, 2**32 - 1)


class Told:
    """Tells a test of every launch before it is begun."""

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


def test_every_mode(model: Model, alone: GenerationWorker) -> None:
    device = FakeDevice()
    engine = fake_engine(model, device)
    made = [request(list(source), plan) for source, plan in ASKED]
    for one in made:
        engine.offer(one)
    for asked_for, found in zip(ASKED, made, strict=True):
        assert_same_answer(found.future.result(timeout=60), answer_alone(alone, asked_for))
    engine.close()
    assert device.violations == []
    assert device.live_blocks(("device", "stream", "pool")) == 0, "closing keeps memory"


@given(
    moments=st.lists(
        st.tuples(st.integers(0, 12), asked(), st.none() | st.none() | st.integers(0, 6)),
        min_size=1, max_size=7,
    ),
    self_pages=st.sampled_from([8, 12, 40]),
    cross_pages=st.sampled_from([2, 3, 12]),
    patience=st.integers(0, 4),
    steps_per_look=st.integers(1, 4),
    seed=SEEDS,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_request_gets_what_it_gets_alone(
    model: Model,
    alone: GenerationWorker,
    moments: list[Moment],
    self_pages: int,
    cross_pages: int,
    patience: int,
    steps_per_look: int,
    seed: int,
) -> None:
    """Also where it ends in the middle of a launch, is cancelled between two, or is encoded late."""
    device, script = FakeDevice(seed), Script(moments)
    engine = fake_engine(
        model, device, self_pages=self_pages, cross_pages=cross_pages, patience=patience,
        steps_per_look=steps_per_look, wrap=lambda stepper: Told(stepper, script.act),
    )  # fmt: skip
    script.engine = engine
    script.finish()
    for (_, one, _), made in zip(moments, script.requests, strict=True):
        if made in script.cancelled:
            with pytest.raises(CancelledError):
                made.future.result(timeout=0)
        else:
            assert_same_answer(made.future.result(timeout=0), answer_alone(alone, one))
    assert_empty(engine)
    assert engine.stats().failed == 0
    engine.close()
    assert device.violations == []
