"""The core of an encoder: packs queued requests into batches, launches them and sets their results."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from precast.graphs.encode import EncodeLimits, EncodeOutput
from precast.runtime.core import EngineCore
from precast.runtime.encoder.packing import cut, fill
from precast.runtime.errors import DeviceFailedError, EngineFailedError, GraphError, QueueFullError
from precast.runtime.futures import Promise
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import Pending, Replay
from precast.runtime.stats import EncoderStats

logger = logging.getLogger("precast")


@dataclass(frozen=True, eq=False)
class EncodeRequest:
    """One tokenized input, and the promise that receives its output."""

    tokens: Tokens
    promise: Promise[EncoderOutput]


Batch = Sequence[EncodeRequest]


class EncoderCore(EngineCore):
    """Owns the replay of ``encode``, and computes requests in order of arrival, one window at a time.

    A window is the front of the queue, up to ``WINDOW`` batches' worth of tokens. Its requests are sorted by
    length and cut into batches of at most ``batch_tokens``. Up to the replay's ``depth`` batches are in
    flight: the next one is packed while the previous one is computed.

    A failing batch does not affect others. If the device fails, all queued and later requests and those in
    flight fail with DeviceFailedError.

    Args:
        replay: Replay of the ``encode`` graph; used by the engine's thread only from now on.
        output: The tensor that the graph computes.
        limits: Limits of the artifact.
        batch_tokens: Most tokens of a packed batch.
        seconds: Seconds of a batch of 0, 1, … ``batch_tokens`` tokens, used to plan batches; None if unknown.
        max_waiting: Most requests in the queue.
        warmup: Input that is run once at startup, to check that the graph works and to let kernels set up;
            its output is discarded.

    Raises:
        GraphError: The warmup failed.
        DeviceFailedError: The device failed.
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
        super().__init__("precast-encoder", max_waiting)
        self._replay = replay
        self._output = output
        self._limits = limits
        self._batch_tokens = batch_tokens
        self._seconds = seconds
        self._warmup = warmup
        self._queue: deque[EncodeRequest] = deque()
        self._requests = self._failed_requests = self._cancelled = self._computed = self._tokens = 0
        # Batches of the window that are not launched yet, and batches in flight; used by the thread only.
        self._batches: deque[Batch] = deque()
        self._in_flight: deque[tuple[Batch, Pending]] = deque()
        self.start()

    def add(
        self,
        requests: Sequence[EncodeRequest],
        deadline: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Queue requests; waits while the queue is full.

        Args:
            requests: The requests of one call.
            deadline: ``time.monotonic`` until which to wait for room.
            cancelled: Returns whether the caller has cancelled; checked again after each ``wake``.

        Returns:
            False if the caller cancelled before all requests were queued.

        Raises:
            RequestTimeoutError: The deadline passed while the queue was full.
            EngineClosedError, EngineFailedError: The engine was closed or has failed.
        """
        for start in range(0, len(requests), self._max_waiting):
            part = requests[start : start + self._max_waiting]
            with self._changed:
                if not self._wait_for_room(len(part), deadline, cancelled):
                    return False
                self._push(part)
        return True

    def offer(self, request: EncodeRequest) -> None:
        """Queue one request, or fail immediately.

        Raises:
            QueueFullError: ``max_waiting`` requests are queued.
            EngineClosedError, EngineFailedError: As ``add``.
        """
        with self._changed:
            if not self._stopped and self.queued >= self._max_waiting:
                raise QueueFullError(
                    f"{self.queued} requests are queued; try again later, or load with a larger max_waiting"
                )
            self._push([request])

    def stats(self) -> EncoderStats:
        """Return the statistics of the engine."""
        with self._changed:
            return EncoderStats(
                requests=self._requests,
                failed=self._failed_requests,
                cancelled=self._cancelled,
                tokens=self._tokens,
                waiting=len(self._queue),
                captures=self._replay.captures,
                batches=self._computed,
            )

    @property
    def queued(self) -> int:
        return len(self._queue)

    def _push(self, requests: Sequence[EncodeRequest]) -> None:
        self._check_open()
        self._queue.extend(requests)
        self._changed.notify_all()

    def _prepare(self) -> None:
        try:
            self._replay.prepare()
            if self._warmup is not None:
                buffers = fill(self._replay, [self._warmup])
                self._split([self._warmup], self._replay.launch(buffers))
        except DeviceFailedError:
            raise
        except Exception as error:
            raise GraphError(
                f"the graph fails on its first batch: {error}; compile the artifact again"
            ) from error

    def _has_work(self) -> bool:
        return bool(self._queue or self._batches or self._in_flight)

    def _idle_timeout(self) -> float | None:
        return self._replay.idle_timeout

    def _suspend(self) -> None:
        self._replay.suspend()

    def _turn(self) -> None:
        """Launch the batches of a window; if the queue is empty, finish the oldest batch in flight."""
        self._take_window()
        if not self._batches and self._in_flight:
            self._finish_oldest()
        while self._batches:
            self._launch(self._batches.popleft())
            while len(self._in_flight) >= self._replay.depth:
                self._finish_oldest()

    def _take_window(self) -> None:
        """Cut the front of the queue into batches, without cancelled requests."""
        window: list[EncodeRequest] = []
        tokens = 0
        with self._changed:
            while self._queue and tokens < self._batch_tokens * self.WINDOW:
                request = self._queue.popleft()
                if request.promise.begin():
                    window.append(request)
                    tokens += len(request.tokens)
                else:
                    self._cancelled += 1
            self._changed.notify_all()
        lengths = [len(request.tokens) for request in window]
        for batch in cut(lengths, self._batch_tokens, self._limits.max_batch, self._seconds):
            self._batches.append([window[index] for index in batch])

    def _launch(self, batch: Batch) -> None:
        try:
            buffers = fill(self._replay, [request.tokens for request in batch])
            self._in_flight.append((batch, self._replay.launch(buffers)))
        except Exception as error:  # a failing batch must not end the engine's thread
            self._fail(batch, error)

    def _finish_oldest(self) -> None:
        batch, pending = self._in_flight.popleft()
        try:
            outputs = self._split([request.tokens for request in batch], pending)
        except Exception as error:
            self._fail(batch, error)
            return
        tokens = sum(len(request.tokens) for request in batch)
        logger.debug("computed a batch of %d inputs, %d tokens", len(batch), tokens)
        with self._changed:
            self._requests += len(batch)
            self._computed += 1
            self._tokens += tokens
        for request, output in zip(batch, outputs, strict=True):
            source = request.tokens
            request.promise.resolve(
                EncoderOutput(source.ids, truncated=source.truncated, **{self._output.name: output})
            )

    def _split(self, batch: Sequence[Tokens], pending: Pending) -> list[np.ndarray]:
        """Wait for a batch and return a copy of the output of each input."""
        (output,) = pending.result()
        array = output.numpy()
        if not self._output.per_token:
            return list(array[: len(batch)].copy())
        ends = np.cumsum([len(tokens) for tokens in batch])
        return [part.copy() for part in np.split(array[: ends[-1]], ends[:-1])]

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Fail one batch; a failed device ends the engine."""
        known = isinstance(error, GraphError | EngineFailedError)
        failure = error if known else GraphError(f"a batch failed: {error}")
        with self._changed:
            self._failed_requests += len(batch)
        for request in batch:
            request.promise.fail(failure)
        if isinstance(failure, EngineFailedError):
            raise failure

    def _complete(self) -> None:
        while self._in_flight:
            self._finish_oldest()

    def _fail_all(self, error: Exception) -> None:
        begun = [request for batch, _ in self._in_flight for request in batch]
        begun += [request for batch in self._batches for request in batch]
        self._in_flight.clear()
        self._batches.clear()
        with self._changed:
            queued, self._queue = list(self._queue), deque()
            self._failed_requests += len(begun)
        for request in (*begun, *queued):
            request.promise.fail(error)

    def _release(self) -> None:
        self._replay.close()
