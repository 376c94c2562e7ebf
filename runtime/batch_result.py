"""The results of all inputs of one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from precast.runtime.futures import Promise, seconds_until, timeout_error

T = TypeVar("T")


class BatchResult(Generic[T]):
    """One outcome, a result or an error, for each of ``count`` inputs of a call.

    A caller that waited for one future after the other would be woken by each, and then wait for the
    interpreter, which the thread that sets the results holds.

    Attributes:
        complete: done when all outcomes are there. Cancelling it gives up those that have not begun.
    """

    def __init__(self, count: int) -> None:
        self.complete: Future[None] = Future()
        self._created = time.monotonic()
        self._outcomes: list[T | Exception | None] = [None] * count
        self._missing = count
        self._lock = threading.Lock()
        if count == 0:
            self.complete.set_result(None)

    def promise(self, index: int) -> Promise[T]:
        """Takes the outcome of input ``index``."""
        return _Entry(self, index)

    def set(self, index: int, outcome: T | Exception) -> bool:
        """Set one outcome; False if it was set before, or the call was given up."""
        with self._lock:
            if self._outcomes[index] is not None:
                return False
            self._outcomes[index] = outcome
            self._missing -= 1
            last = self._missing == 0
        if last and self.complete.set_running_or_notify_cancel():
            self.complete.set_result(None)
        return not self.complete.cancelled()

    def wants(self, index: int) -> bool:
        """Whether the outcome of input ``index`` is still to be computed."""
        return self._outcomes[index] is None and not self.complete.cancelled()

    def wait(self, deadline: float | None) -> None:
        """Wait until all outcomes are there; at the deadline the missing ones become RequestTimeoutErrors."""
        try:
            self.complete.result(seconds_until(deadline))
        except TimeoutError:
            self.expire()

    def expire(self) -> None:
        """Make every missing outcome a RequestTimeoutError."""
        for index, outcome in enumerate(self._outcomes):
            if outcome is None:
                self.set(index, timeout_error(self._created, "not computed yet"))

    def cancel(self) -> None:
        """Give up what has not begun."""
        self.complete.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether the call was given up."""
        return self.complete.cancelled()

    def outcomes(self) -> list[T | Exception]:
        """All of them, once ``complete`` is done."""
        return [outcome for outcome in self._outcomes if outcome is not None]


class _Entry(Generic[T]):
    __slots__ = ("_index", "_results")

    def __init__(self, results: BatchResult[T], index: int) -> None:
        self._results, self._index = results, index

    def begin(self) -> bool:
        return self._results.wants(self._index)

    def resolve(self, result: T, /) -> bool:
        return self._results.set(self._index, result)

    def fail(self, error: Exception, /) -> bool:
        return self._results.set(self._index, error)


def collect(outcomes: Sequence[Any], single: bool, return_exceptions: bool) -> Any:
    """The result of a call. The first error is raised, unless errors were asked for as results."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failed and not return_exceptions:
        try:
            raise failed[0]
        finally:
            del outcomes, failed  # the error holds this frame: they would form a cycle with it
    return outcomes[0] if single else list(outcomes)
