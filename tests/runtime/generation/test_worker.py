"""The core of a generation engine: failures, deadlines and cancellation end only the requests concerned."""

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
    SPECS,
    RequestSpec,
    assert_empty,
    assert_same_output,
    beams,
    endless,
    greedy,
    output_alone,
)
from tests.support.scripted_steps import (
    TIMEOUT,
    Gate,
    assert_serves,
    encode,
    scripted,
    submit,
    wait_until,
    wait_until_idle,
)


def deadline_of(made: Request) -> float:
    assert made.future.deadline is not None
    return made.future.deadline


@contextmanager
def paused(model: Model, **options: int) -> Iterator[tuple[GenerationCore, Gate]]:
    """Start an engine that pauses before its first step, with one running request, until the gate opens."""
    with scripted(model, **options) as (engine, steps):
        gate = Gate()
        steps.before_step = gate
        first = request([4, 5], endless())
        engine.offer(first)
        assert gate.reached.wait(TIMEOUT)
        yield engine, gate
        gate.open.set()


@given(at=st.integers(1, 15), count=st.integers(1, 4), message=st.sampled_from(["out of memory", ""]))
@settings(max_examples=8, deadline=None)
def test_a_failing_step_fails_all_running_requests(
    model: Model, alone: GenerationCore, at: int, count: int, message: str
) -> None:
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        running: list[Request] = []

        def fail(step: int, batch: ActiveBatch) -> None:
            if step == at:
                running.extend(batch.requests)
                raise RuntimeError(message)

        steps.before_step = fail
        made = [submit(engine, one) for one in SPECS[:count]]
        wait([one.future for one in made], timeout=TIMEOUT)
        for one, spec in zip(made, SPECS, strict=False):
            if one in running:
                with pytest.raises(GraphError, match="a step failed: RuntimeError"):
                    one.future.result(timeout=0)
            else:
                assert_same_output(one.future.result(timeout=0), output_alone(alone, spec))
        wait_until_idle(engine)
        assert engine.stats().failed == len(running)
        steps.before_step = lambda *_: None
        assert_serves(engine, alone)


@given(at=st.integers(1, 3), max_batch_delay_steps=st.integers(0, 2))
@settings(max_examples=6, deadline=None)
def test_a_failing_source_encoding_fails_its_requests_only(
    model: Model, alone: GenerationCore, at: int, max_batch_delay_steps: int
) -> None:
    with scripted(model, max_batch_delay_steps=max_batch_delay_steps, self_blocks=6) as (engine, steps):

        def fail(encoding: int) -> None:
            if encoding == at:
                raise ValueError("broken")

        steps.before_encode = fail
        made = [submit(engine, one) for one in SPECS * 2]
        wait([one.future for one in made], timeout=TIMEOUT)
        failed = [one for one in made if one.future.exception() is not None]
        assert 0 < len(failed) < len(made)
        for one, spec in zip(made, SPECS * 2, strict=True):
            if one in failed:
                with pytest.raises(GraphError, match="encode_source failed: ValueError: broken"):
                    one.future.result()
            else:
                assert_same_output(one.future.result(), output_alone(alone, spec))
        wait_until_idle(engine)
        assert engine.stats().failed == len(failed)
        assert_serves(engine, alone)


def test_a_graph_that_fails_in_the_warmup_fails_loading(model: Model) -> None:
    class Broken:
        def encode_sources(self, *_: object) -> None:
            raise RuntimeError("no such kernel")

    before = threading.active_count()
    with pytest.raises(GraphError, match="fails on its first batch: no such kernel; compile"):
        model.engine(wrap=lambda steps: Broken())
    assert threading.active_count() == before


def test_a_waiting_request_times_out(model: Model, alone: GenerationCore) -> None:
    with paused(model, self_blocks=2) as (engine, gate):
        late, other = submit(engine, SPECS[0], timeout=0.02), submit(engine, SPECS[0])
        wait_until(lambda: time.monotonic() > deadline_of(late))
        gate.open.set()
        with pytest.raises(RequestTimeoutError, match=r"timed out after \d+\.\d+ seconds; it was waiting"):
            late.future.result(timeout=TIMEOUT)
        assert_same_output(other.future.result(timeout=TIMEOUT), output_alone(alone, SPECS[0]))
        wait_until_idle(engine)
        assert engine.stats().failed == 1
        assert_empty(engine)


def test_a_running_request_times_out(model: Model, alone: GenerationCore) -> None:
    with scripted(model, max_batch_delay_steps=0) as (engine, steps):
        late = request([3, 4], endless())

        def expire(_: int, batch: ActiveBatch) -> None:
            """Give the request a deadline that has passed, once it is running."""
            if late in batch.requests and late.future.deadline is None:
                late.future.deadline = time.monotonic()
                engine._scheduler._deadlines.add(late)

        steps.before_step = expire
        neighbour = submit(engine, SPECS[1])
        engine.offer(late)
        with pytest.raises(RequestTimeoutError, match=r"timed out after \d+\.\d+ seconds; it was running"):
            late.future.result(timeout=TIMEOUT)
        assert_same_output(neighbour.future.result(timeout=TIMEOUT), output_alone(alone, SPECS[1]))
        assert_serves(engine, alone)


def test_a_request_that_finishes_before_its_deadline(model: Model, alone: GenerationCore) -> None:
    with scripted(model) as (engine, _):
        made = [submit(engine, one, timeout=TIMEOUT) for one in SPECS]
        for one, spec in zip(made, SPECS, strict=True):
            assert_same_output(one.future.result(timeout=TIMEOUT), output_alone(alone, spec))


def test_waiting_and_running_requests_can_be_cancelled(model: Model, alone: GenerationCore) -> None:
    with paused(model, self_blocks=4, max_batch_delay_steps=0) as (engine, gate):
        running = [one for one in engine._requests.values() if one.state == "running"]
        waiting = [submit(engine, ((3,), endless())) for _ in range(3)]
        for made in (*running, waiting[1]):
            assert made.future.cancel()
            assert made.future.cancelled()
        gate.open.set()
        for place in (0, 2):
            assert len(waiting[place].future.result(timeout=TIMEOUT).token_ids) == LIMITS.max_target_length
        wait_until_idle(engine)
        assert (engine.stats().cancelled, engine.stats().requests) == (2, 2)
        assert_serves(engine, alone)


def test_cancelling_before_during_and_right_after_submission(model: Model, alone: GenerationCore) -> None:
    with scripted(model, self_blocks=6, max_waiting=1000) as (engine, _):
        early = request([3], endless())
        early.future.cancel()
        engine.offer(early)
        threads: list[tuple[threading.Thread, Request]] = []
        cancelled: set[Request] = set()

        def cancel(made: Request, after: float) -> None:
            time.sleep(after)
            if made.future.cancel():
                cancelled.add(made)

        for number in range(60):
            made = submit(engine, ((3 + number % 9,), endless(6)))
            thread = threading.Thread(target=cancel, args=(made, number % 7 * 0.004))
            threads.append((thread, made))
            if number % 5 == 0:
                cancel(made, 0)
            thread.start()
        for thread, made in threads:
            thread.join(TIMEOUT)
            if made in cancelled:
                with pytest.raises(CancelledError):
                    made.future.result(timeout=0)
            else:
                assert len(made.future.result(timeout=TIMEOUT).token_ids) == 6
        wait_until_idle(engine)
        assert engine.stats().cancelled == len(cancelled) + 1
        assert engine.stats().requests == 60 - len(cancelled)
        assert_serves(engine, alone)


def test_a_full_queue_rejects_offers_and_lets_add_wait(model: Model, alone: GenerationCore) -> None:
    with paused(model, self_blocks=2, max_waiting=2) as (engine, gate):
        first = [submit(engine, SPECS[0]) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are queued; try again later"):
            submit(engine, SPECS[0])
        waiting = request(list(SPECS[0][0]), SPECS[0][1])
        blocked = threading.Event()

        def not_cancelled() -> bool:
            """Called by the wait for room, first before it blocks."""
            blocked.set()
            return False

        def add() -> None:
            engine.add(waiting, not_cancelled)

        thread = threading.Thread(target=add)
        thread.start()
        assert blocked.wait(TIMEOUT)
        assert thread.is_alive() and engine.stats().waiting == 2
        gate.open.set()
        for made in (*first, waiting):
            assert_same_output(made.future.result(timeout=TIMEOUT), output_alone(alone, SPECS[0]))
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_a_cancelled_request_makes_room_in_a_full_queue(model: Model) -> None:
    with paused(model, self_blocks=2, max_waiting=1) as (engine, gate):
        waiting = submit(engine, SPECS[0])
        gate.open.set()
        waiting.future.cancel()
        wait_until(lambda: engine.stats().waiting == 0)
        submit(engine, SPECS[0]).future.result(timeout=TIMEOUT)


def test_closing_fails_all_requests_and_ends_the_thread(model: Model) -> None:
    with paused(model, self_blocks=2, max_waiting=2) as (engine, gate):
        held_back = list(engine._requests.values())
        made = [*held_back, submit(engine, SPECS[0]), submit(engine, SPECS[0])]
        blocked: list[BaseException] = []

        def add() -> None:
            try:
                engine.add(request(list(SPECS[0][0]), SPECS[0][1]))
            except EngineClosedError as error:
                blocked.append(error)

        adding, closing = threading.Thread(target=add), threading.Thread(target=engine.close)
        adding.start()
        closing.start()
        adding.join(TIMEOUT)  # it fails immediately, while the engine's thread is still in its step
        assert len(blocked) == 1
        gate.open.set()
        closing.join(TIMEOUT)
        assert not engine._thread.is_alive()
        for one in made:
            with pytest.raises(EngineClosedError, match="closed before the request finished"):
                one.future.result(timeout=TIMEOUT)
        for call in (lambda: submit(engine, SPECS[0]), lambda: encode(engine, [made[0].tokens])):
            with pytest.raises(EngineClosedError, match="load the artifact again"):
                call()
        engine.close()


def test_closing_from_the_engines_own_thread(model: Model) -> None:
    with scripted(model) as (engine, steps):
        steps.before_step = lambda step, _: engine.close() if step == 2 else None
        made = submit(engine, SPECS[0])
        with pytest.raises(EngineClosedError):
            made.future.result(timeout=TIMEOUT)
        wait_until(lambda: not engine._thread.is_alive())


TOO_LARGE: list[tuple[Callable[[], RequestSpec], str]] = [
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


@pytest.mark.parametrize(("make", "message"), TOO_LARGE, ids=["sequences", "self", "cross"])
def test_requests_that_could_never_run_are_rejected(
    make: Callable[[], RequestSpec], message: str, model: Model
) -> None:
    with paused(model, self_blocks=5, cross_blocks=1) as (engine, gate):
        for offer in (engine.offer, engine.add):
            source, plan = make()
            with pytest.raises(RequestTooLargeError, match=message):
                offer(request(list(source), plan))
        assert engine.stats().waiting == 0
        gate.open.set()
