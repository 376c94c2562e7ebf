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
    """The outcomes, results or errors, of ``count`` inputs of a call.

    The waiting caller is woken once. If it waited for one future after another, each of them would wake it
    while the engine's thread, which sets the others, holds the interpreter lock.

    Attributes:
        complete: Future that is done when all outcomes are set. Cancelling it drops inputs that are still
            queued.
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
        """Return the promise that receives the outcome of input ``index``."""
        return _Entry(self, index)

    def set(self, index: int, outcome: T | Exception) -> bool:
        """Set one outcome; return False if it was set before, or the call was cancelled."""
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
        """Return whether the outcome of input ``index`` still has to be computed."""
        return self._outcomes[index] is None and not self.complete.cancelled()

    def wait(self, deadline: float | None) -> None:
        """Wait until all outcomes are set; at the deadline, set the missing ones to RequestTimeoutError."""
        try:
            self.complete.result(seconds_until(deadline))
        except TimeoutError:
            self.expire()

    def expire(self) -> None:
        """Set every missing outcome to a RequestTimeoutError."""
        for index, outcome in enumerate(self._outcomes):
            if outcome is None:
                self.set(index, timeout_error(self._created, "not computed yet"))

    def cancel(self) -> None:
        """Drop the inputs that are still queued."""
        self.complete.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self.complete.cancelled()

    def outcomes(self) -> list[T | Exception]:
        """Return all outcomes in order, once ``complete`` is done."""
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
    """Return the result of a call, or raise its first error unless ``return_exceptions`` is set."""
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if failed and not return_exceptions:
        try:
            raise failed[0]
        finally:
            del outcomes, failed  # the error holds this frame: they would form a cycle with it
    return outcomes[0] if single else list(outcomes)
