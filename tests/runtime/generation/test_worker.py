"""What goes wrong under the engine's thread ends those it belongs to, and nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.runtime.errors import (
    EngineClosedError,
    GraphError,
    QueueFullError,
    RequestTimeoutError,
    RequestTooLargeError,
)
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.request import Request
from tests.support.generation import LIMITS, Model, request
from tests.support.random_requests import (
    ASKED,
    Asked,
    answer_alone,
    assert_empty,
    assert_same_answer,
    beams,
    endless,
    greedy,
)
from tests.support.scripted_steps import (
    Gate,
    ask,
    assert_serves,
    encode,
    scripted,
    wait_until,
    wait_until_idle,
)


@contextmanager
def held(model: Model, **options: int) -> Iterator[tuple[GenerationCore, Gate]]:
    """An engine that stops before its first step, with one request running; the gate lets it go on."""
    with scripted(model, **options) as (engine, steps):
        gate = Gate()
        steps.before_step = gate
        first = request([4, 5], endless())
        engine.offer(first)
        assert gate.reached.wait(30)
        yield engine, gate
        gate.open.set()


@given(at=st.integers(1, 15), count=st.integers(1, 4), message=st.sampled_from(["out of memory", ""]))
@settings(max_examples=8, deadline=None)
def test_a_step_that_raises_ends_those_that_run(
    model: Model, alone: GenerationCore, at: int, count: int, message: str
) -> None:
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        running: list[Request] = []

        def fail(step: int, batch: ActiveBatch) -> None:
            if step == at:
                running.extend(batch.requests)
                raise RuntimeError(message)

        steps.before_step = fail
        made = [ask(engine, one) for one in ASKED[:count]]
        wait([one.future for one in made], timeout=60)
        for one, asked in zip(made, ASKED, strict=False):
            if one in running:
                with pytest.raises(GraphError, match="a step failed: RuntimeError"):
                    one.future.result(timeout=0)
            else:
                assert_same_answer(one.future.result(timeout=0), answer_alone(alone, asked))
        wait_until_idle(engine)
        assert engine.stats().failed == len(running)
        steps.before_step = lambda *_: None
        assert_serves(engine, alone)


@given(at=st.integers(1, 3), max_batch_delay_steps=st.integers(0, 2))
@settings(max_examples=6, deadline=None)
def test_an_admission_that_raises_ends_those_that_join(
    model: Model, alone: GenerationCore, at: int, max_batch_delay_steps: int
) -> None:
    with scripted(model, max_batch_delay_steps=max_batch_delay_steps, self_blocks=6) as (engine, steps):

        def fail(encoding: int) -> None:
            if encoding == at:
                raise ValueError("broken")

        steps.before_encode = fail
        made = [ask(engine, one) for one in ASKED * 2]
        wait([one.future for one in made], timeout=60)
        failed = [one for one in made if one.future.exception() is not None]
        assert 0 < len(failed) < len(made)
        for one, asked in zip(made, ASKED * 2, strict=True):
            if one in failed:
                with pytest.raises(GraphError, match="encode_source failed: ValueError: broken"):
                    one.future.result()
            else:
                assert_same_answer(one.future.result(), answer_alone(alone, asked))
        wait_until_idle(engine)
        assert engine.stats().failed == len(failed)
        assert_serves(engine, alone)


def test_a_graph_that_fails_at_once_fails_the_start(model: Model) -> None:
    class Broken:
        def encode_sources(self, *_: object) -> None:
            raise RuntimeError("no such kernel")

    before = threading.active_count()
    with pytest.raises(GraphError, match="fails on its first batch: no such kernel; compile"):
        model.engine(wrap=lambda steps: Broken())
    assert threading.active_count() == before


def test_what_waits_is_given_up_when_its_time_is_over(model: Model, alone: GenerationCore) -> None:
    with held(model, self_blocks=2) as (engine, gate):
        late, patient = ask(engine, ASKED[0], timeout=0.02), ask(engine, ASKED[0])
        time.sleep(0.05)
        gate.open.set()
        with pytest.raises(RequestTimeoutError, match=r"timed out after 0\.\d+ seconds; it was waiting"):
            late.future.result(timeout=30)
        assert_same_answer(patient.future.result(timeout=30), answer_alone(alone, ASKED[0]))
        wait_until_idle(engine)
        assert engine.stats().failed == 1
        assert_empty(engine)


def test_what_runs_is_given_up_when_its_time_is_over(model: Model, alone: GenerationCore) -> None:
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        steps.before_step = lambda *_: time.sleep(0.02)
        neighbour = ask(engine, ASKED[1])
        late = ask(engine, ((3, 4), endless()), timeout=0.1)
        with pytest.raises(RequestTimeoutError, match=r"timed out after 0\.\d+ seconds; it was running"):
            late.future.result(timeout=30)
        assert_same_answer(neighbour.future.result(timeout=30), answer_alone(alone, ASKED[1]))
        assert_serves(engine, alone)


def test_an_answer_in_time_meets_no_deadline(model: Model, alone: GenerationCore) -> None:
    with scripted(model) as (engine, _):
        made = [ask(engine, one, timeout=60) for one in ASKED]
        for one, asked in zip(made, ASKED, strict=True):
            assert_same_answer(one.future.result(timeout=60), answer_alone(alone, asked))


def test_what_waits_or_runs_can_be_cancelled(model: Model, alone: GenerationCore) -> None:
    with held(model, self_blocks=4, max_batch_delay_steps=0) as (engine, gate):
        running = [one for one in engine._requests.values() if one.state == "running"]
        waiting = [ask(engine, ((3,), endless())) for _ in range(3)]
        for made in (*running, waiting[1]):
            assert made.future.cancel()
            assert made.future.cancelled()
        gate.open.set()
        for place in (0, 2):
            assert len(waiting[place].future.result(timeout=30).token_ids) == LIMITS.max_target_length
        wait_until_idle(engine)
        assert (engine.stats().cancelled, engine.stats().requests) == (2, 2)
        assert_serves(engine, alone)


def test_cancelled_before_during_and_right_after_it_is_offered(model: Model, alone: GenerationCore) -> None:
    with scripted(model, self_blocks=6, max_waiting=1000) as (engine, _):
        early = request([3], endless())
        early.future.cancel()
        engine.offer(early)
        threads: list[tuple[threading.Thread, Request]] = []
        told: set[Request] = set()

        def cancel(made: Request, after: float) -> None:
            time.sleep(after)
            if made.future.cancel():
                told.add(made)

        for number in range(60):
            made = ask(engine, ((3 + number % 9,), endless(6)))
            thread = threading.Thread(target=cancel, args=(made, number % 7 * 0.004))
            threads.append((thread, made))
            if number % 5 == 0:
                cancel(made, 0)
            thread.start()
        for thread, made in threads:
            thread.join()
            if made in told:
                with pytest.raises(CancelledError):
                    made.future.result(timeout=0)
            else:
                assert len(made.future.result(timeout=30).token_ids) == 6
        wait_until_idle(engine)
        assert engine.stats().cancelled == len(told) + 1
        assert engine.stats().requests == 60 - len(told)
        assert_serves(engine, alone)


def test_a_full_queue_refuses_offers_and_lets_others_wait(model: Model, alone: GenerationCore) -> None:
    with held(model, self_blocks=2, max_waiting=2) as (engine, gate):
        first = [ask(engine, ASKED[0]) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are queued; try again later"):
            ask(engine, ASKED[0])
        patient = request(list(ASKED[0][0]), ASKED[0][1])
        thread = threading.Thread(target=engine.add, args=(patient,))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and engine.stats().waiting == 2
        gate.open.set()
        for made in (*first, patient):
            assert_same_answer(made.future.result(timeout=30), answer_alone(alone, ASKED[0]))
        thread.join(30)
        assert not thread.is_alive()


def test_a_cancelled_request_makes_room_in_a_full_queue(model: Model) -> None:
    with held(model, self_blocks=2, max_waiting=1) as (engine, gate):
        waiting = ask(engine, ASKED[0])
        gate.open.set()
        waiting.future.cancel()
        wait_until(lambda: engine.stats().waiting == 0)
        ask(engine, ASKED[0]).future.result(timeout=30)


def test_closing_fails_what_runs_and_waits_and_ends_the_thread(model: Model) -> None:
    with held(model, self_blocks=2, max_waiting=2) as (engine, gate):
        held_back = list(engine._requests.values())
        made = [*held_back, ask(engine, ASKED[0]), ask(engine, ASKED[0])]
        blocked: list[BaseException] = []

        def add() -> None:
            try:
                engine.add(request(list(ASKED[0][0]), ASKED[0][1]))
            except EngineClosedError as error:
                blocked.append(error)

        adding, closing = threading.Thread(target=add), threading.Thread(target=engine.close)
        adding.start()
        closing.start()
        adding.join(30)  # it is told at once; the thread ends with its step
        assert len(blocked) == 1
        gate.open.set()
        closing.join(30)
        assert not engine._thread.is_alive()
        for one in made:
            with pytest.raises(EngineClosedError, match="closed before the request finished"):
                one.future.result(timeout=30)
        for call in (lambda: ask(engine, ASKED[0]), lambda: encode(engine, [made[0].tokens])):
            with pytest.raises(EngineClosedError, match="load the artifact again"):
                call()
        engine.close()


def test_closing_from_the_engines_own_thread(model: Model) -> None:
    with scripted(model) as (engine, steps):
        steps.before_step = lambda step, _: engine.close() if step == 2 else None
        made = ask(engine, ASKED[0])
        with pytest.raises(EngineClosedError):
            made.future.result(timeout=30)
        wait_until(lambda: not engine._thread.is_alive())


TOO_LARGE: list[tuple[Callable[[], Asked], str]] = [
    (
        lambda: ((3,), beams(LIMITS.max_num_seqs + 1, 4)),
        "13 sequences .* need 13 sequences; the engine has 12",
    ),
    (lambda: ((3,), beams(3, 32)), "need 6 blocks of the self-attention KV cache; the engine has 5"),
    (
        lambda: (tuple(range(2, 19)), greedy(4)),
        "17 source tokens need 2 blocks of the cross-attention KV cache; .* has 1",
    ),
]


@pytest.mark.parametrize(("make", "message"), TOO_LARGE, ids=["rows", "self", "cross"])
def test_what_could_never_run_is_refused_at_once(
    make: Callable[[], Asked], message: str, model: Model
) -> None:
    with held(model, self_blocks=5, cross_blocks=1) as (engine, gate):
        for offer in (engine.offer, engine.add):
            source, plan = make()
            with pytest.raises(RequestTooLargeError, match=message):
                offer(request(list(source), plan))
        assert engine.stats().waiting == 0
        gate.open.set()
