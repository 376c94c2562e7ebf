"""``EngineCore``: the thread of an engine, with its queue, failure, cancellation and shutdown."""

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
    """Base class of the cores, which own an engine's thread and everything that the thread uses.

    Subclasses call ``start`` at the end of their constructor, and hold ``_changed`` to queue requests.

    Args:
        name: Name of the thread.
        max_waiting: Most requests in the queue.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._changed = threading.Condition()
        self._max_waiting = max_waiting
        self._closed = self._retired = self._busy = False
        self._failure: Exception | None = None
        # Callbacks of futures are user code, which must not run in the engine's thread.
        self._callbacks = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-callbacks")
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread and wait until it is ready.

        Raises:
            InferenceError: The graphs could not be set up.
        """
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self._thread.join()
            raise
        _cores.add(self)

    def close(self) -> None:
        """Finish the batches in flight, fail all other requests and end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread() and not self._forked:
            self._thread.join()

    def retire(self) -> None:
        """Make the thread end once all submitted requests have finished. Returns immediately."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no request is queued or running; return False after ``timeout`` seconds."""
        self.check_caller()
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped or self._idle, timeout)

    def wake(self) -> None:
        """Wake callers that wait for room in the queue, so that cancelled ones return."""
        with self._changed:
            self._changed.notify_all()

    def check_caller(self) -> None:
        """Check that the calling thread may wait for this engine.

        Raises:
            EngineForkedError: This process was forked from the engine's.
            ReentrantCallError: This is the engine's own thread.
        """
        if self._forked:
            raise _forked_error()
        if self._thread is threading.current_thread():
            raise ReentrantCallError(
                "a blocking call was made in the engine's own thread, where it would never return; a logits "
                "processor may call submit, but must not wait for the result"
            )

    def disown(self) -> None:
        """Mark the engine as unusable in a forked child: its thread is gone, and its locks may stay held."""
        self._changed = threading.Condition()
        self._failure, self._closed = _forked_error(), True

    @property
    def thread(self) -> threading.Thread:
        """The engine's thread."""
        return self._thread

    @property
    @abstractmethod
    def queued(self) -> int:
        """Number of requests in the queue. The caller holds ``_changed``."""

    # Implemented by subclasses, called in the engine's thread.

    @abstractmethod
    def _prepare(self) -> None:
        """Set up thread-local resources, and run the graphs once."""

    @abstractmethod
    def _has_work(self) -> bool:
        """Return whether ``_turn`` has something to do. Any thread may call it, holding ``_changed``."""

    @abstractmethod
    def _turn(self) -> None:
        """Run the next piece of work. It must return soon and not block."""

    @abstractmethod
    def _complete(self) -> None:
        """Finish the batches in flight, after the engine was closed."""

    @abstractmethod
    def _fail_all(self, error: Exception) -> None:
        """Fail all unfinished requests."""

    @abstractmethod
    def _release(self) -> None:
        """Release graphs and memory."""

    @abstractmethod
    def _idle_timeout(self) -> float | None:
        """Return the seconds without work after which ``_suspend`` is called; None for never."""

    @abstractmethod
    def _suspend(self) -> None:
        """Release threads while the engine is idle."""

    # Used by subclasses, which hold ``_changed``.

    def _check_open(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure)) from self._failure
        if self._closed:
            raise EngineClosedError("the engine is closed; load the artifact again")

    def _wait_for_room(
        self, count: int, deadline: float | None, cancelled: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until ``count`` more requests fit; return False if the caller cancelled.

        Raises:
            RequestTimeoutError: The deadline passed.
        """
        fits = self._changed.wait_for(
            lambda: self._stopped or cancelled() or self.queued + count <= self._max_waiting,
            seconds_until(deadline),
        )
        if not fits:
            raise RequestTimeoutError("the request timed out while the engine's queue was full")
        return not cancelled()

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
        except Exception as failure:  # every request must get a result, whatever failed
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
        """Wait for work; return False once the thread has to end."""
        with self._changed:
            self._busy = False
            if not self._has_work():
                self._changed.notify_all()  # for callers of ``drain``
                if not self._changed.wait_for(self._should_wake, self._idle_timeout()):
                    self._suspend()
                    self._changed.wait_for(self._should_wake)
            self._busy = not self._closed and self._has_work()
            return self._busy

    def _should_wake(self) -> bool:
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
    """Close all engines: a thread inside a graph would crash the process at interpreter shutdown."""
    for core in list(_cores):
        core.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
