"""The one thread that replays: it takes what waits, packs it, launches it and hands out the answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np

from precast.graphs.encode import EncodeLimits, EncodeOutput
from precast.runtime.encoder.batch_result import Promise
from precast.runtime.encoder.packing import cut, fill
from precast.runtime.errors import (
    DeviceFailedError,
    EngineClosedError,
    GraphError,
    InferenceError,
    QueueFullError,
)
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import CaptureInfo, Pending, Replay


@dataclass(frozen=True)
class Request:
    """One tokenized input and where its answer goes."""

    tokens: Tokens
    answer: Promise


Batch = Sequence[Request]


@dataclass
class Stats:
    """What an engine has done since it was loaded."""

    requests: int = 0
    batches: int = 0
    tokens: int = 0
    waiting: int = 0
    failed: int = 0
    captures: tuple[CaptureInfo, ...] = ()
    """On CUDA: one for each captured graph."""
    capture_seconds: float = 0.0
    graph_bytes: int = 0
    """Device memory that captured graphs took: intermediate and output tensors, not the weights."""


class Worker:
    """Owns a replay. Requests are served first come, first served, one window at a time.

    A window is what waits when the thread looks, up to ``WINDOW`` batches' worth of tokens; within it
    requests are sorted by length and cut into batches of at most ``batch_tokens``. As many batches as the
    replay's ``depth`` are in flight: the next one is packed while the one before is computed.

    A batch that fails fails alone. When the device fails, all that is in flight, all that waits and all that
    comes later meets the same DeviceFailedError.

    Args:
        replay: of the encode graph; nobody else may use it from now on.
        output: what it answers with.
        limits: of the artifact.
        batch_tokens: tokens of a batch.
        seconds: of a batch of 0, 1, … ``batch_tokens`` tokens, where that is known and batches are cut by it.
        max_waiting: requests that may wait; ``offer`` refuses more.
        warmup: answered before any request and by nobody read. It tells at once whether the graph runs and
            gives what it promised, and pays for what its kernels set up at their first call.

    Raises:
        GraphError: the warmup could not be answered.
        DeviceFailedError: the device failed before.
    """

    WINDOW = 8

    def __init__(
        self,
        replay: Replay,
        output: EncodeOutput,
        limits: EncodeLimits,
        *,
        batch_tokens: int,
        max_waiting: int,
        seconds: np.ndarray | None = None,
        warmup: Tokens | None = None,
    ) -> None:
        self._replay = replay
        self._output = output
        self._limits = limits
        self._batch_tokens = batch_tokens
        self._seconds = seconds
        self._max_waiting = max_waiting
        self._warmup = warmup
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._closed = False
        self._failure: InferenceError | None = None
        self._stats = Stats()
        # The thread's own: batches of the window that are not launched yet, and those that are.
        self._batches: deque[Batch] = deque()
        self._in_flight: deque[tuple[Batch, Pending]] = deque()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="precast-worker", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except InferenceError:
            self._thread.join()
            raise

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests; waits while the queue is full.

        Raises:
            EngineClosedError: the engine was closed.
            DeviceFailedError: the device failed before.
        """
        for start in range(0, len(requests), self._max_waiting):
            part = requests[start : start + self._max_waiting]
            with self._changed:
                self._changed.wait_for(partial(self._may_push, len(part)))
                self._push(part)

    def offer(self, request: Request) -> None:
        """Queue one request at once or not at all.

        Raises:
            QueueFullError: ``max_waiting`` requests wait already.
            EngineClosedError, DeviceFailedError: as ``add``.
        """
        with self._changed:
            if not self._may_push(1):
                raise QueueFullError(
                    f"{len(self._waiting)} requests are waiting, the engine holds no more; try again later, "
                    f"or load with a larger max_waiting"
                )
            self._push([request])

    def stats(self) -> Stats:
        captures = self._replay.captures
        with self._changed:
            return Stats(
                **{
                    **vars(self._stats),
                    "waiting": len(self._waiting),
                    "captures": captures,
                    "capture_seconds": sum(capture.seconds for capture in captures),
                    "graph_bytes": sum(capture.bytes for capture in captures),
                }
            )

    def close(self) -> None:
        """Finish the window being run, fail what still waits, let go of the graph. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _may_push(self, count: int) -> bool:
        """Whether there is room, or a reason to refuse."""
        return self._closed or self._failure is not None or len(self._waiting) + count <= self._max_waiting

    def _push(self, requests: Sequence[Request]) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure)) from self._failure
        if self._closed:
            raise EngineClosedError("the engine is closed; load the artifact again")
        self._waiting.extend(requests)
        self._changed.notify_all()

    def _serve(self) -> None:
        try:
            self._prepare()
        except Exception as error:
            self._replay.close()
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while self._next_window():
                self._run_window()
            while self._in_flight:
                self._finish_oldest()
            self._fail_all(EngineClosedError("the engine was closed before it could answer"))
        except Exception as error:
            failure = error if isinstance(error, InferenceError) else _batch_failed(error)
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
            self._fail_all(failure)
        finally:
            self._replay.close()

    def _prepare(self) -> None:
        try:
            self._replay.prepare()
            if self._warmup is not None:
                buffers = fill(self._replay, [self._warmup])
                self._cut_apart([self._warmup], self._replay.launch(buffers))
        except DeviceFailedError:
            raise
        except Exception as error:
            raise GraphError(
                f"the graph fails on its first batch: {error}; compile the artifact again"
            ) from error

    def _next_window(self) -> bool:
        """Cut what waits, none of it cancelled, into batches; False once the engine is closed.

        While something is in flight this does not wait: there may be nothing to cut.
        """
        window: list[Request] = []
        tokens = 0
        with self._changed:
            while not window:
                if not self._in_flight:
                    self._wait()
                if self._closed:
                    return False
                while self._waiting and tokens < self._batch_tokens * self.WINDOW:
                    request = self._waiting.popleft()
                    if request.answer.set_running_or_notify_cancel():
                        window.append(request)
                        tokens += len(request.tokens)
                if self._in_flight:
                    break
            self._changed.notify_all()
        lengths = [len(request.tokens) for request in window]
        for places in cut(lengths, self._batch_tokens, self._limits.max_batch, self._seconds):
            self._batches.append([window[place] for place in places])
        return True

    def _wait(self) -> None:
        """Until there is something to do."""
        if not self._changed.wait_for(self._has_work, self._replay.idle_timeout):
            self._replay.suspend()
            self._changed.wait_for(self._has_work)

    def _has_work(self) -> bool:
        return self._closed or bool(self._waiting)

    def _run_window(self) -> None:
        """Launch all batches; with none, nothing waits, and the oldest answers are handed out instead."""
        if not self._batches:
            self._finish_oldest()
        while self._batches:
            self._launch(self._batches.popleft())
            while len(self._in_flight) >= self._replay.depth:
                self._finish_oldest()

    def _launch(self, batch: Batch) -> None:
        try:
            buffers = fill(self._replay, [request.tokens for request in batch])
            self._in_flight.append((batch, self._replay.launch(buffers)))
        except Exception as error:  # one bad batch must not end the thread that serves all others
            self._fail(batch, error)

    def _finish_oldest(self) -> None:
        batch, pending = self._in_flight.popleft()
        try:
            rows = self._cut_apart([request.tokens for request in batch], pending)
        except Exception as error:
            self._fail(batch, error)
            return
        with self._changed:
            self._stats.requests += len(batch)
            self._stats.batches += 1
            self._stats.tokens += sum(len(request.tokens) for request in batch)
        for request, row in zip(batch, rows, strict=True):
            tokens = request.tokens
            request.answer.set_result(
                EncoderOutput(tokens.ids, truncated=tokens.truncated, **{self._output.name: row})
            )

    def _cut_apart(self, batch: Sequence[Tokens], pending: Pending) -> list[np.ndarray]:
        (answer,) = pending.result()
        array = answer.numpy()
        if not self._output.per_token:
            return list(array[: len(batch)].copy())
        ends = np.cumsum([len(item) for item in batch])
        return [part.copy() for part in np.split(array[: ends[-1]], ends[:-1])]

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Fail one batch; a failure of the device goes on to all others."""
        failure = error if isinstance(error, (GraphError, DeviceFailedError)) else _batch_failed(error)
        with self._changed:
            self._stats.failed += len(batch)
        for request in batch:
            request.answer.set_exception(failure)
        if isinstance(failure, DeviceFailedError):
            raise failure

    def _fail_all(self, failure: InferenceError) -> None:
        """Fail what waits, and what the thread holds, if it stopped in the midst of it."""
        running = [request for batch, _ in self._in_flight for request in batch]
        running += [request for batch in self._batches for request in batch]
        self._in_flight.clear()
        self._batches.clear()
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
            self._stats.failed += len(running)
        for request in running:
            request.answer.set_exception(failure)
        for request in waiting:
            if request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(failure)


def _batch_failed(error: Exception) -> GraphError:
    return GraphError(f"a batch failed: {error}")
