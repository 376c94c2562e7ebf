"""Numbers that are none end the request that has them; its neighbours and successors notice nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime.errors import NotFiniteError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.token_bias import TokenBias
from tests.support.generation import Model
from tests.support.random_requests import (
    SPECS,
    VOCAB,
    assert_empty,
    assert_same_output,
    beams,
    endless,
    greedy,
    output_alone,
    samples,
)
from tests.support.scripted_steps import (
    ScriptedSteps,
    assert_serves,
    encode,
    scripted,
    submit,
    wait_until_idle,
)

VICTIM = tuple(range(5, 28))
"""A source of a length that no other has here: what is written for it is known by it."""
VICTIMS = {
    "greedy": greedy(30),
    "beam": beams(3, 20),
    "sample": samples(2, 5, 20),
    "prefix": greedy(30, prefix=(0, 4, 5, 6, 7)),
}


def spoil(steps: ScriptedSteps, kind: str, slots: np.ndarray) -> None:
    """What a model that overflows writes there."""
    for name, tensor in steps.kv_cache.items():
        if name.startswith(f"{kind}_"):
            tensor[torch.from_numpy(slots.astype(np.int64))] = math.nan


def spoil_victims(steps: ScriptedSteps) -> None:
    """Every source of the victim's length has keys and values that are no numbers."""

    def after(slots: Sequence[np.ndarray]) -> None:
        for one in slots:
            if len(one) == len(VICTIM):
                spoil(steps, "cross", one)

    steps.after_encode = after


@pytest.mark.parametrize("kind", VICTIMS)
@pytest.mark.parametrize("steps_per_sync", [1, 3])
def test_nan_does_not_affect_other_requests(
    kind: str, steps_per_sync: int, model: Model, alone: GenerationCore
) -> None:
    with scripted(model, self_blocks=12, cross_blocks=6, steps_per_sync=steps_per_sync) as (engine, steps):
        spoil_victims(steps)
        for _ in range(2):
            before = [(submit(engine, one), one) for one in SPECS[:2]]
            victim = submit(engine, (VICTIM, VICTIMS[kind]))
            after = [(submit(engine, one), one) for one in SPECS]
            with pytest.raises(NotFiniteError, match="not finite"):
                victim.future.result(timeout=30)
            for made, one in before + after:
                assert_same_output(made.future.result(timeout=30), output_alone(alone, one))
        wait_until_idle(engine)
        assert_empty(engine)
        assert engine.stats().failed == 2


@given(cancelled_at=st.integers(1, 6), self_blocks=st.sampled_from([8, 12]))
@settings(max_examples=8, deadline=None)
def test_a_cancelled_request_with_nan_does_not_affect_later_ones(
    model: Model, alone: GenerationCore, cancelled_at: int, self_blocks: int
) -> None:
    """Inside a prefix nothing is chosen, so that nobody looks at the scores."""
    with scripted(model, self_blocks=self_blocks, cross_blocks=6, max_batch_delay_steps=0) as (engine, steps):
        spoil_victims(steps)
        victim = submit(engine, (VICTIM, greedy(32, prefix=(0, 4, 5, 6, 7))))

        def cancel(step: int, _: ActiveBatch) -> None:
            if step == cancelled_at:
                victim.future.cancel()

        steps.after_step = cancel
        wait_until_idle(engine)
        assert victim.future.cancelled() or isinstance(victim.future.exception(), NotFiniteError)
        assert_serves(engine, alone)


def test_previous_slots_of_a_sequence_do_not_matter(model: Model, alone: GenerationCore) -> None:
    """A short target gets the row of a longer one, whose last block goes to somebody else, beside a third
    that makes all of them be read that far."""
    long, short = ((8, 9), endless(30)), ((3, 4), endless(6))
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        spoil_victims(steps)
        gone, made = [], []

        def join(step: int, _: ActiveBatch) -> None:
            if step == 2:
                gone.append(submit(engine, ((9,), endless(32))))
            elif step == 8:
                gone[0].future.cancel()
            elif step == 18:
                made.extend(
                    [submit(engine, short), submit(engine, (VICTIM, greedy(32, prefix=(0, *range(4, 20)))))]
                )

        steps.before_step = join
        first = submit(engine, long)
        first.future.result(timeout=30)
        wait_until_idle(engine)
        assert_same_output(first.future.result(), output_alone(alone, long))
        assert_same_output(made[0].future.result(), output_alone(alone, short))
        assert isinstance(made[1].future.exception(), NotFiniteError)


def test_nan_in_a_source_that_is_only_encoded(model: Model, alone: GenerationCore) -> None:
    """Its keys and values go to the place that rows read behind the end of a shorter source."""
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        spoil_victims(steps)
        made = [submit(engine, one) for one in SPECS]
        encode(engine, [submit(engine, (VICTIM, greedy(4))).tokens])
        for one, spec in zip(made, SPECS, strict=True):
            assert_same_output(one.future.result(timeout=30), output_alone(alone, spec))
        assert_serves(engine, alone)


def test_forbidding_every_token_fails_the_request(model: Model, alone: GenerationCore) -> None:
    token_biases = tuple(TokenBias(token, -math.inf, first=4) for token in range(VOCAB))
    with scripted(model) as (engine, _):
        for plan in (
            greedy(9, token_biases=token_biases),
            beams(2, 9, token_biases=token_biases),
            samples(2, 1, 9, token_biases=token_biases),
        ):
            made = submit(engine, ((6, 7), plan))
            with pytest.raises(NotFiniteError, match="every token is forbidden"):
                made.future.result(timeout=30)
        assert_serves(engine, alone)


def test_a_model_whose_scores_are_always_nan(model: Model) -> None:
    """Everybody fails, the engine stays."""
    with scripted(model, self_blocks=6) as (engine, steps):

        def after(slots: Sequence[np.ndarray]) -> None:
            for one in slots:
                spoil(steps, "cross", one)

        steps.after_encode = after
        made = [submit(engine, one) for one in SPECS * 2]
        for one in made:
            with pytest.raises(NotFiniteError, match="check the weights"):
                one.future.result(timeout=30)
        wait_until_idle(engine)
        assert_empty(engine)
        assert engine.stats().failed == len(made)
