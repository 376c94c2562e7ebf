"""Futures of requests, and their deadlines.

A result wakes the threads that wait for it directly. A user's callback never runs in an engine's thread: it
would delay every other request, or wait for the engine for ever.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from numbers import Real
from typing import Any, Protocol, TypeVar

from precast.runtime.errors import EngineForkedError, OptionError, ReentrantCallError, RequestTimeoutError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
logger = logging.getLogger("precast")
_local = threading.local()
_LONGEST_TIMEOUT = 1e9
"""Upper limit of a timeout in seconds: locks refuse much larger ones."""


def run_callbacks_in(executor: Executor) -> None:
    """Make callbacks of futures that the calling thread resolves run in ``executor``."""
    _local.callbacks = executor


class Promise(Protocol[T_contra]):
    """Receives the result of one request: a ``ResultFuture``, or one entry of a ``BatchResult``."""

    def begin(self) -> bool:
        """Mark the request as running; return False if it was cancelled or has timed out."""
        ...

    def resolve(self, result: T_contra, /) -> bool:
        """Set the result; return False if the request has already ended."""
        ...

    def fail(self, error: Exception, /) -> bool:
        """Set an error; return False if the request has already ended."""
        ...


class ResultFuture(Future[T]):
    """The future of one request; compatible with ``concurrent.futures`` and asyncio.

    It differs from a plain future in three ways. It may have a deadline, which a waiting caller enforces even
    while the engine's thread is busy. Its callbacks never run in an engine's thread. Waiting for it raises
    an error where it would block for ever: in the thread of its own engine, and in a forked child process.

    Attributes:
        deadline: ``time.monotonic`` at which the request times out; None for never.
        created: ``time.monotonic`` when the future was made.
        status: ``waiting`` or ``running``, for error messages.
        served_by: The thread that will resolve it; None until the request is queued.
    """

    def __init__(self, deadline: float | None = None) -> None:
        super().__init__()
        self.deadline = deadline
        self.created = time.monotonic()
        self.status = "waiting"
        self.served_by: threading.Thread | None = None
        self._process = os.getpid()
        # The engine and a waiting caller may both end a request; the first one wins.
        self._transition = threading.Lock()
        self._wanted: bool | None = None
        self._claimed = False

    def begin(self) -> bool:
        """Mark the request as running, so that it can no longer be cancelled; return whether it is wanted."""
        with self._transition:
            self.status = "running"
            return self._still_wanted() and not self._claimed

    def resolve(self, result: T, /) -> bool:
        """Set the result; return False if the request has already ended."""
        if not self._claim():
            return False
        self.set_result(result)
        return True

    def fail(self, error: BaseException, /) -> bool:
        """Set an error; return False if the request has already ended."""
        if not self._claim():
            return False
        self.set_exception(error)
        return True

    def expire(self) -> bool:
        """Fail with RequestTimeoutError; return False if the request has already ended."""
        return self.fail(timeout_error(self.created, self.status))

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result and return it.

        Raises:
            RequestTimeoutError: The request's own timeout has passed.
            TimeoutError: There is no result after ``timeout`` seconds.
            ReentrantCallError, EngineForkedError: The wait would block for ever.
        """
        self._prepare_to_wait(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the request to end and return its error, or None. Raises as ``result``."""
        self._prepare_to_wait(timeout)
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[T]], Any]) -> None:
        """Call ``fn`` with this future once it is done, in a thread where ``fn`` may block."""
        super().add_done_callback(lambda future: _call_outside_engine(fn, future))

    def add_engine_callback(self, fn: Callable[[Future[T]], Any]) -> None:
        """As ``add_done_callback``, but in the thread that resolves the future; ``fn`` must not block."""
        super().add_done_callback(fn)

    def check_waiting(self) -> None:
        """Check that the calling thread may wait for the result.

        Raises:
            ReentrantCallError, EngineForkedError: The wait would block for ever.
        """
        if self.done():
            return
        if self._process != os.getpid():
            raise EngineForkedError("the future belongs to an engine of the process that forked this one")
        if self.served_by is threading.current_thread():
            raise ReentrantCallError("the engine's own thread cannot wait for a result of the engine")

    def _prepare_to_wait(self, timeout: float | None) -> None:
        if self.done():
            return
        if timeout != 0:
            self.check_waiting()
        left = seconds_until(self.deadline)
        if left is not None and (timeout is None or left <= timeout):
            wait([self], left)
            if not self.done():
                self.expire()

    def _claim(self) -> bool:
        with self._transition:
            if self._claimed:
                return False
            self._claimed = True
            return self._still_wanted()

    def _still_wanted(self) -> bool:
        if self._wanted is None:
            self._wanted = self.set_running_or_notify_cancel()
        return self._wanted


def deadline_of(timeout: Any) -> float | None:
    """Return the ``time.monotonic`` at which a call that begins now times out.

    Raises:
        OptionError: ``timeout`` is not a number of seconds.
    """
    if timeout is None:
        return None
    number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not number or not 0 <= timeout <= sys.float_info.max:
        raise OptionError(f"timeout must be a number of seconds of at least 0, found {timeout!r}")
    return time.monotonic() + float(min(timeout, _LONGEST_TIMEOUT))


def seconds_until(deadline: float | None) -> float | None:
    """Return the seconds from now to a ``time.monotonic``, at least 0; None for None."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def outcome_of(future: ResultFuture[T]) -> T | BaseException:
    """Wait for a future and return its output or its error."""
    error = future.exception()
    return future.result() if error is None else error


def timeout_error(since: float, status: str) -> RequestTimeoutError:
    """Return the error of a timed-out request that was made at ``since``."""
    return RequestTimeoutError(
        f"the request timed out after {time.monotonic() - since:.3f} seconds; it was {status}"
    )


def _call_outside_engine(fn: Callable[[Future[T]], Any], future: Future[T]) -> None:
    executor: Executor | None = getattr(_local, "callbacks", None)
    if executor is None:
        fn(future)
        return
    try:
        executor.submit(_logged, fn, future)
    except RuntimeError:  # the interpreter is shutting down
        logger.warning("a callback of a future was dropped: the interpreter is shutting down")


def _logged(fn: Callable[[Future[T]], Any], future: Future[T]) -> None:
    try:
        fn(future)
    except Exception:
        logger.exception("exception calling callback for %r", future)
