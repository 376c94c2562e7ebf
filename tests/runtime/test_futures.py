"""Futures of requests and results of calls: set once by any thread, waited for, and called back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.batch_result import BatchResult
from precast.runtime.errors import EngineForkedError, GraphError, ReentrantCallError, RequestTimeoutError
from precast.runtime.futures import ResultFuture, run_callbacks_in
from precast.runtime.io.outputs import EncoderOutput

Outcome = EncoderOutput | Exception


def outcome_of(place: int) -> Outcome:
    """Return an output, or an error for every third index."""
    return GraphError(str(place)) if place % 3 == 2 else EncoderOutput(np.array([place], np.int32))


@given(order=st.integers(0, 12).flatmap(lambda count: st.permutations(range(count))))
def test_outcomes_come_in_any_order_and_from_any_thread(order: list[int]) -> None:
    results: BatchResult[EncoderOutput] = BatchResult(len(order))
    wanted = [outcome_of(place) for place in range(len(order))]

    def give(place: int) -> None:
        promise, outcome = results.promise(place), wanted[place]
        assert promise.begin()
        if isinstance(outcome, Exception):
            assert promise.fail(outcome)
        else:
            assert promise.resolve(outcome)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(give, place) for place in order]:
            done.result(10)
    results.complete.result(10)
    assert results.outcomes() == wanted


def test_results_are_complete_after_the_last_outcome() -> None:
    results: BatchResult[EncoderOutput] = BatchResult(2)
    results.set(1, outcome_of(1))
    assert not results.complete.done()
    results.set(0, outcome_of(0))
    assert results.complete.done()


def test_a_call_that_is_given_up_ignores_outcomes() -> None:
    results: BatchResult[EncoderOutput] = BatchResult(2)
    running, waiting = results.promise(0), results.promise(1)
    assert running.begin()
    assert results.complete.cancel()
    assert not waiting.begin()
    assert not running.fail(GraphError("late"))
    assert results.complete.cancelled()


def test_a_complete_call_cannot_be_given_up() -> None:
    results: BatchResult[EncoderOutput] = BatchResult(1)
    results.set(0, outcome_of(0))
    assert not results.complete.cancel()
    with pytest.raises(TimeoutError):
        BatchResult(1).complete.result(0)


def test_a_call_expires_where_outcomes_are_missing() -> None:
    results: BatchResult[EncoderOutput] = BatchResult(3)
    begun = results.promise(2)
    assert begun.begin() and results.set(0, outcome_of(0))
    results.wait(deadline=0.0)
    kinds = [type(outcome) for outcome in results.outcomes()]
    assert kinds == [EncoderOutput, RequestTimeoutError, RequestTimeoutError]
    assert not results.promise(1).begin() and not begun.resolve(EncoderOutput(np.array([2], np.int32)))
    assert results.complete.done()


def test_the_first_end_of_a_future_counts() -> None:
    late: ResultFuture[int] = ResultFuture(deadline=0.0)
    with pytest.raises(RequestTimeoutError, match="it was waiting"):
        late.result()
    assert not late.resolve(1) and not late.fail(GraphError("x")) and not late.begin()
    done: ResultFuture[int] = ResultFuture(deadline=0.0)
    assert done.begin() and done.resolve(7) and not done.expire()
    assert done.result() == 7 and done.exception() is None
    gone: ResultFuture[int] = ResultFuture()
    assert gone.cancel() and not gone.resolve(1)
    with pytest.raises(CancelledError):
        gone.result()
    assert wait_for([gone], 10).done == {gone}, "concurrent.futures.wait is not notified"


def test_a_timeout_of_the_wait_is_not_the_requests() -> None:
    future: ResultFuture[int] = ResultFuture(deadline=time.monotonic() + 1000)
    with pytest.raises(TimeoutError) as raised:
        future.result(timeout=0.0)
    assert not isinstance(raised.value, RequestTimeoutError) and not future.done()


def test_callbacks_leave_the_thread_that_resolves() -> None:
    """Callbacks of futures that the engine resolves; a caller that cancels runs them itself, as usual."""
    where: list[threading.Thread] = []
    called = threading.Event()

    def note(_: object) -> None:
        where.append(threading.current_thread())
        called.set()

    resolved: ResultFuture[int] = ResultFuture()
    resolved.add_done_callback(note)
    with ThreadPoolExecutor(1) as callbacks:

        def serve() -> None:
            run_callbacks_in(callbacks)
            resolved.resolve(1)

        engine = threading.Thread(target=serve)
        engine.start()
        assert called.wait(10)
        engine.join(10)
    cancelled: ResultFuture[int] = ResultFuture()
    cancelled.add_done_callback(note)
    cancelled.cancel()
    assert where[0] not in (engine, threading.main_thread()) and where[1] is threading.current_thread()


def test_waits_that_would_never_end_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    future: ResultFuture[int] = ResultFuture()
    future.served_by = threading.current_thread()
    with pytest.raises(ReentrantCallError, match="cannot wait"):
        future.result()
    future.served_by = None
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(EngineForkedError, match="forked"):
        future.exception()
    future.resolve(3)
    assert future.result() == 3
