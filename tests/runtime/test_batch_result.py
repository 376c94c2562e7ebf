"""The answers of a call: all of them, in order, whoever sets them and whenever."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precast.runtime.encoder.batch_result import Answer, BatchResult
from precast.runtime.errors import GraphError
from precast.runtime.io.outputs import EncoderOutput


def answer_to(place: int) -> Answer:
    """Every third one is an error."""
    return GraphError(str(place)) if place % 3 == 2 else EncoderOutput(np.array([place], np.int32))


@given(order=st.integers(0, 12).flatmap(lambda count: st.permutations(range(count))))
def test_answers_come_in_any_order_and_from_any_thread(order: list[int]) -> None:
    answers, wanted = BatchResult(len(order)), [answer_to(place) for place in range(len(order))]

    def give(place: int) -> None:
        promise, answer = answers.promise(place), wanted[place]
        assert promise.set_running_or_notify_cancel()
        if isinstance(answer, Exception):
            promise.set_exception(answer)
        else:
            promise.set_result(answer)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(give, place) for place in order]:
            done.result(10)
    answers.complete.result(10)
    assert answers.found() == wanted


def test_nothing_is_complete_before_the_last_answer() -> None:
    answers = BatchResult(2)
    answers.set(1, answer_to(1))
    assert not answers.complete.done()
    answers.set(0, answer_to(0))
    assert answers.complete.done()


def test_a_call_that_is_given_up_takes_answers_and_wants_none() -> None:
    answers = BatchResult(2)
    running, waiting = answers.promise(0), answers.promise(1)
    assert running.set_running_or_notify_cancel()
    assert answers.complete.cancel()
    assert not waiting.set_running_or_notify_cancel()
    running.set_exception(GraphError("late"))
    assert answers.complete.cancelled()


def test_a_complete_call_cannot_be_given_up() -> None:
    answers = BatchResult(1)
    answers.set(0, answer_to(0))
    assert not answers.complete.cancel()
    with pytest.raises(TimeoutError):
        BatchResult(1).complete.result(0)
