"""The engine: one thread that computes, a queue, and what every engine does with both.

An engine is two objects. ``EngineCore`` is what the thread runs and holds; ``Engine`` is what the user holds,
with the methods of a task. The thread refers to the core only, so that an engine that is dropped is
collected: its core then finishes what was submitted, and ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from precast.artifacts.manifest import Manifest
from precast.artifacts.reader import open_artifact
from precast.runtime.errors import (
    EngineClosedError,
    EngineFailedError,
    EngineForkedError,
    ReentrantCallError,
    RequestTimeoutError,
)
from precast.runtime.futures import run_callbacks_in, seconds_until
from precast.runtime.options import LoadOptions
from precast.runtime.stats import EngineStats

logger = logging.getLogger("precast")

_ASYNC_THREADS = 4
"""Threads in which async calls tokenize, and wait for room in the queue."""
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


class Engine(ABC):
    """What ``Encoder`` and ``Seq2Seq`` share. Safe to use from many threads.

    An engine is closed by ``close``, by leaving its ``with`` block, or when the interpreter exits; requests
    that have not finished then fail with EngineClosedError. One that is dropped finishes them first. In a
    process that was forked from its own every call fails with EngineForkedError: load the artifact after
    forking.
    """

    def __init__(self, manifest: Manifest, core: EngineCore) -> None:
        self.manifest = manifest
        self._core = core
        self._finalizer = weakref.finalize(self, core.retire)
        self._finalizer.atexit = False  # the cores are closed then
        logger.info("loaded %r with %s", self, self._describe())

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Load an artifact of this kind.

        Args:
            path: the artifact's directory.
            **options: those of ``precast.load``.

        Raises:
            TaskError: the artifact is of another kind; the message names the class that loads it.
            ArtifactError, ProgramError, GraphError, DeviceFailedError, OptionError: as ``precast.load``.
        """
        folder, checked = Path(path), LoadOptions(**options)
        return cls.open(folder, open_artifact(folder, checked.device_index()), checked)

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, manifest: Manifest, options: LoadOptions) -> Self:
        """The engine of an artifact whose files were checked; use ``load``."""

    @abstractmethod
    def stats(self) -> EngineStats:
        """Return what was done since the engine was loaded, and what it holds now."""

    def _describe(self) -> str:
        """What was loaded, for the log."""
        graphs = self.manifest.graphs.values()
        stats = self.stats()
        captured = f", {len(stats.captures)} captured graphs" if stats.captures else ""
        return f"{len(graphs)} graphs, {sum(len(graph.buckets.sizes) for graph in graphs)} buckets{captured}"

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until every request that was submitted has finished.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether all have finished.
        """
        return self._core.drain(timeout)

    def close(self) -> None:
        """Fail requests that have not finished, end the thread, release the graphs. May be called again."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        model, build = self.manifest.model, self.manifest.build
        return (
            f"{type(self).__name__}({model.name!r}, task={model.task!r}, dtype={build.dtype!r}, "
            f"device={build.device!r})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or sent to another process: it holds a thread and "
            f"loaded graphs; send the path of the artifact and load it there"
        )

    @cached_property
    def executor(self) -> ThreadPoolExecutor:
        """Where async calls tokenize and queue: asyncio's default threads stay free for others."""
        return ThreadPoolExecutor(_ASYNC_THREADS, thread_name_prefix="precast-aio")


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
