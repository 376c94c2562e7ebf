"""The thread of an engine, its queue, and how it fails, closes and is forked. ``Encoder`` and ``Seq2Seq``
engines subclass it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from precast.runtime.errors import (
    EngineClosedError,
    EngineFailedError,
    EngineForkedError,
    ReentrantCallError,
    RequestTimeoutError,
)
from precast.runtime.futures import run_callbacks_in, seconds_until

logger = logging.getLogger("precast")

_cores: weakref.WeakSet[EngineCore] = weakref.WeakSet()


class EngineCore(ABC):
    """The thread of an engine, its readiness, its queue's limit, its failure and its end.

    Subclasses call ``start`` when they are complete, and queue requests while they hold ``_changed``.

    Args:
        name: of the thread.
        max_waiting: requests that may be queued.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._changed = threading.Condition()
        self._max_waiting = max_waiting
        self._closed = self._retired = self._busy = False
        self._failure: Exception | None = None
        # Callbacks of futures are the user's code; they run here and not in the engine's thread.
        self._callbacks = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-callbacks")
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread and wait until it is ready.

        Raises:
            InferenceError: it could not be set up.
        """
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self._thread.join()
            raise
        _cores.add(self)

    def close(self) -> None:
        """Finish the batch in progress, fail all other requests, end the thread. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread() and not self._forked:
            self._thread.join()

    def retire(self) -> None:
        """Finish everything that was submitted, then end the thread. Does not wait."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued or computed; False if that takes longer than ``timeout`` seconds."""
        self.check_caller()
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped or self._idle, timeout)

    def wake(self) -> None:
        """Wake the callers that wait for room in the queue, to check whether they were given up."""
        with self._changed:
            self._changed.notify_all()

    def check_caller(self) -> None:
        """Check that the calling thread may wait for this engine.

        Raises:
            EngineForkedError: the engine's thread exists in the parent process only.
            ReentrantCallError: this is the engine's own thread.
        """
        if self._forked:
            raise _forked_error()
        if self._thread is threading.current_thread():
            raise ReentrantCallError(
                "a blocking call was made in the engine's own thread, which would wait for itself for ever; "
                "a logits processor may call submit, and must not wait for the result"
            )

    def disown(self) -> None:
        """Called in a forked child, where the thread does not exist and its locks may be held for ever."""
        self._changed = threading.Condition()
        self._failure, self._closed = _forked_error(), True

    @property
    def thread(self) -> threading.Thread:
        """The thread that computes."""
        return self._thread

    @property
    @abstractmethod
    def queued(self) -> int:
        """Requests in the queue. Called with ``_changed`` held."""

    # What subclasses provide; all are called in the engine's thread.

    @abstractmethod
    def _prepare(self) -> None:
        """Set up what belongs to the thread, and run the graphs once."""

    @abstractmethod
    def _has_work(self) -> bool:
        """Whether a turn would do something. Called with ``_changed`` held, by any thread."""

    @abstractmethod
    def _turn(self) -> None:
        """Do the next piece of work; must return soon, and not wait."""

    @abstractmethod
    def _complete(self) -> None:
        """The engine was closed: finish the batches in progress."""

    @abstractmethod
    def _fail_all(self, error: Exception) -> None:
        """Fail every request that has not ended."""

    @abstractmethod
    def _release(self) -> None:
        """Release graphs and memory."""

    @abstractmethod
    def _idle_timeout(self) -> float | None:
        """Seconds without work after which to call ``_suspend``; None for never."""

    @abstractmethod
    def _suspend(self) -> None:
        """There is no work for now."""

    # What subclasses use; called with ``_changed`` held.

    def _check_open(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure)) from self._failure
        if self._closed:
            raise EngineClosedError("the engine is closed; load the artifact again")

    def _wait_for_room(
        self, count: int, deadline: float | None, given_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until ``count`` more requests fit; False if the caller gave up.

        Raises:
            RequestTimeoutError: the deadline passed.
        """
        fits = self._changed.wait_for(
            lambda: self._stopped or given_up() or self.queued + count <= self._max_waiting,
            seconds_until(deadline),
        )
        if not fits:
            raise RequestTimeoutError("the request timed out while the queue of the engine was full")
        return not given_up()

    @property
    def _stopped(self) -> bool:
        return self._closed or self._failure is not None

    @property
    def _idle(self) -> bool:
        return not self._busy and not self._has_work()

    @property
    def _forked(self) -> bool:
        return isinstance(self._failure, EngineForkedError)

    def _serve(self) -> None:
        run_callbacks_in(self._callbacks)
        try:
            self._prepare()
        except BaseException as failure:
            self._release()
            self._callbacks.shutdown(wait=False)
            self._ready.set_exception(failure)
            return
        self._ready.set_result(None)
        error: Exception = EngineClosedError("the engine was closed before the request finished")
        try:
            while self._wait_for_work():
                self._turn()
            self._complete()
        except EngineFailedError as failure:
            error = self._failed(failure)
        except Exception as failure:  # no request may be left without a result, whatever this is
            logger.exception("the thread of an engine failed")
            error = self._failed(EngineFailedError(f"the engine failed: {type(failure).__name__}: {failure}"))
        finally:
            with self._changed:
                self._closed, self._busy = True, False
                self._changed.notify_all()
            self._fail_all(error)
            self._release()
            self._callbacks.shutdown(wait=False)

    def _failed(self, failure: EngineFailedError) -> EngineFailedError:
        with self._changed:
            self._failure = failure
        return failure

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do; False once the engine has to end."""
        with self._changed:
            self._busy = False
            if not self._has_work():
                self._changed.notify_all()  # of ``drain``
                if not self._changed.wait_for(self._may_go_on, self._idle_timeout()):
                    self._suspend()
                    self._changed.wait_for(self._may_go_on)
            self._busy = not self._closed and self._has_work()
            return self._busy

    def _may_go_on(self) -> bool:
        return self._closed or self._retired or self._has_work()


def _forked_error() -> EngineForkedError:
    return EngineForkedError(
        "the engine was loaded before this process was forked, and its thread exists in the parent only; "
        "load the artifact after the fork, or start processes with the method 'spawn'"
    )


def _disown_all() -> None:
    for core in list(_cores):
        core.disown()


@atexit.register
def _close_all() -> None:
    """A thread inside a graph while the interpreter ends would take the process down."""
    for core in list(_cores):
        core.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
