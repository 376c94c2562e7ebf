"""Scores that are not finite fail only their own request."""

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
    TIMEOUT,
    ScriptedSteps,
    assert_serves,
    encode,
    scripted,
    submit,
    wait_until_idle,
)

VICTIM = tuple(range(5, 28))
"""A source with a length that no other source has, by which its keys and values are recognized."""
VICTIMS = {
    "greedy": greedy(30),
    "beam": beams(3, 20),
    "sample": samples(2, 5, 20),
    "prefix": greedy(30, prefix=(0, 4, 5, 6, 7)),
}


def write_nan(steps: ScriptedSteps, kind: str, slots: np.ndarray) -> None:
    """Write NaN to slots, as an overflowing model would."""
    for name, tensor in steps.kv_cache.items():
        if name.startswith(f"{kind}_"):
            tensor[torch.from_numpy(slots.astype(np.int64))] = math.nan


def write_nan_for_victims(steps: ScriptedSteps) -> None:
    """Write NaN as keys and values of every source of the victim's length."""

    def after(slots: Sequence[np.ndarray]) -> None:
        for one in slots:
            if len(one) == len(VICTIM):
                write_nan(steps, "cross", one)

    steps.after_encode = after


@pytest.mark.parametrize("kind", VICTIMS)
@pytest.mark.parametrize("steps_per_sync", [1, 3])
def test_nan_does_not_affect_other_requests(
    kind: str, steps_per_sync: int, model: Model, alone: GenerationCore
) -> None:
    with scripted(model, self_blocks=12, cross_blocks=6, steps_per_sync=steps_per_sync) as (engine, steps):
        write_nan_for_victims(steps)
        for _ in range(2):
            before = [(submit(engine, one), one) for one in SPECS[:2]]
            victim = submit(engine, (VICTIM, VICTIMS[kind]))
            after = [(submit(engine, one), one) for one in SPECS]
            with pytest.raises(NotFiniteError, match="not finite"):
                victim.future.result(timeout=TIMEOUT)
            for made, one in before + after:
                assert_same_output(made.future.result(timeout=TIMEOUT), output_alone(alone, one))
        wait_until_idle(engine)
        assert_empty(engine)
        assert engine.stats().failed == 2


@given(cancelled_at=st.integers(1, 6), self_blocks=st.sampled_from([8, 12]))
@settings(max_examples=8, deadline=None)
def test_a_cancelled_request_with_nan_does_not_affect_later_ones(
    model: Model, alone: GenerationCore, cancelled_at: int, self_blocks: int
) -> None:
    """Inside a prefix no token is sampled, so the scores are not checked."""
    with scripted(model, self_blocks=self_blocks, cross_blocks=6, max_batch_delay_steps=0) as (engine, steps):
        write_nan_for_victims(steps)
        victim = submit(engine, (VICTIM, greedy(32, prefix=(0, 4, 5, 6, 7))))

        def cancel(step: int, _: ActiveBatch) -> None:
            if step == cancelled_at:
                victim.future.cancel()

        steps.after_step = cancel
        wait_until_idle(engine)
        assert victim.future.cancelled() or isinstance(victim.future.exception(), NotFiniteError)
        assert_serves(engine, alone)


def test_previous_slots_of_a_sequence_do_not_matter(model: Model, alone: GenerationCore) -> None:
    """A short target gets the sequence of a longer one, whose last block goes to another request.

    A third request makes the graph read all sequences that far.
    """
    long, short = ((8, 9), endless(30)), ((3, 4), endless(6))
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        write_nan_for_victims(steps)
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
        first.future.result(timeout=TIMEOUT)
        wait_until_idle(engine)
        assert_same_output(first.future.result(), output_alone(alone, long))
        assert_same_output(made[0].future.result(), output_alone(alone, short))
        assert isinstance(made[1].future.exception(), NotFiniteError)


def test_nan_in_a_source_that_is_only_encoded(model: Model, alone: GenerationCore) -> None:
    """Its keys and values are written to the spare slot, which sequences with shorter sources read masked."""
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        write_nan_for_victims(steps)
        made = [submit(engine, one) for one in SPECS]
        encode(engine, [submit(engine, (VICTIM, greedy(4))).tokens])
        for one, spec in zip(made, SPECS, strict=True):
            assert_same_output(one.future.result(timeout=TIMEOUT), output_alone(alone, spec))
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
                made.future.result(timeout=TIMEOUT)
        assert_serves(engine, alone)


def test_a_model_whose_scores_are_always_nan(model: Model) -> None:
    """All requests fail, and the engine keeps running."""
    with scripted(model, self_blocks=6) as (engine, steps):

        def after(slots: Sequence[np.ndarray]) -> None:
            for one in slots:
                write_nan(steps, "cross", one)

        steps.after_encode = after
        made = [submit(engine, one) for one in SPECS * 2]
        for one in made:
            with pytest.raises(NotFiniteError, match="check the weights"):
                one.future.result(timeout=TIMEOUT)
        wait_until_idle(engine)
        assert_empty(engine)
        assert engine.stats().failed == len(made)
