"""The answers of one call: to many requests together what a ``Future`` is to one.

A caller that waited for a future after the other would be woken by each, and then wait for the interpreter,
which the thread that hands out the answers holds.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Protocol

from precast.runtime.io.outputs import EncoderOutput

Answer = EncoderOutput | Exception


class Promise(Protocol):
    """Where the answer to a request goes: a ``Future``, or a place among the answers of a call."""

    def set_running_or_notify_cancel(self) -> bool:
        """False where nobody wants the answer any more; told once, before the request is computed."""
        ...

    def set_result(self, result: EncoderOutput, /) -> None: ...

    def set_exception(self, exception: Exception, /) -> None: ...


class BatchResult:
    """One answer for each of ``count`` inputs, in their order. Each is set once, by any thread.

    Attributes:
        complete: done when all answers are there. To cancel it is to give up those that still wait.
    """

    def __init__(self, count: int) -> None:
        self.complete: Future[None] = Future()
        self._found: list[Answer | None] = [None] * count
        self._missing = count
        self._lock = threading.Lock()
        if count == 0:
            self.complete.set_result(None)

    def promise(self, place: int) -> Promise:
        """Takes the answer to input ``place``."""
        return _Place(self, place)

    def set(self, place: int, answer: Answer) -> None:
        with self._lock:
            self._found[place] = answer
            self._missing -= 1
            last = self._missing == 0
        if last and self.complete.set_running_or_notify_cancel():
            self.complete.set_result(None)

    def found(self) -> list[Answer]:
        """All of them, once ``complete`` is done."""
        return [answer for answer in self._found if answer is not None]


class _Place:
    __slots__ = ("_answers", "_place")

    def __init__(self, answers: BatchResult, place: int) -> None:
        self._answers, self._place = answers, place

    def set_running_or_notify_cancel(self) -> bool:
        return not self._answers.complete.cancelled()

    def set_result(self, result: EncoderOutput, /) -> None:
        self._answers.set(self._place, result)

    def set_exception(self, exception: Exception, /) -> None:
        self._answers.set(self._place, exception)
