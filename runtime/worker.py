"""The one thread that replays: it takes what waits, packs it, runs it and hands out the answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from precast.graphs.encode import EncodeOutput, Limits
from precast.runtime.errors import EngineClosedError, GraphError, QueueFullError
from precast.runtime.outputs import EncoderOutput
from precast.runtime.packing import cut, fill
from precast.runtime.replay.interface import Replay
from precast.runtime.tokenization import Tokens


@dataclass(frozen=True)
class Request:
    """One tokenized input and the future that its answer goes to."""

    tokens: Tokens
    future: Future[EncoderOutput] = field(default_factory=Future)


@dataclass
class Stats:
    """What an engine has done since it was loaded."""

    requests: int = 0
    batches: int = 0
    tokens: int = 0
    waiting: int = 0
    failed: int = 0


class Worker:
    """Owns a replay. Requests are served first come, first served, one window at a time.

    A window is what waits when the thread looks, up to ``window`` batches' worth of tokens; within it
    requests are sorted by length and cut into batches of at most ``batch_tokens``.

    Args:
        replay: of the encode graph; nobody else may use it from now on.
        output: what it answers with.
        limits: of the artifact.
        batch_tokens: tokens of a batch.
        max_waiting: requests that may wait; ``offer`` refuses more.
        num_threads: of the graph's kernels.
        probe: answered before any request and by nobody read. It tells at once whether the graph runs and
            gives what it promised, and pays for what its kernels set up at their first call.

    Raises:
        GraphError: the probe could not be answered.
    """

    WINDOW = 8

    def __init__(
        self,
        replay: Replay,
        output: EncodeOutput,
        limits: Limits,
        *,
        batch_tokens: int,
        max_waiting: int,
        num_threads: int,
        probe: Tokens | None = None,
    ) -> None:
        self._replay = replay
        self._output = output
        self._limits = limits
        self._batch_tokens = batch_tokens
        self._max_waiting = max_waiting
        self._num_threads = num_threads
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._stats = Stats()
        self._probe = probe
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="precast-worker", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except GraphError:
            self._thread.join()
            raise

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests; waits while the queue is full.

        Raises:
            EngineClosedError: the engine was closed.
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
            EngineClosedError: the engine was closed.
        """
        with self._changed:
            if not self._closed and not self._has_room(1):
                raise QueueFullError(
                    f"{len(self._waiting)} requests are waiting, the engine holds no more; try again later, "
                    f"or load with a larger max_waiting"
                )
            self._push([request])

    def stats(self) -> Stats:
        with self._changed:
            return Stats(**{**vars(self._stats), "waiting": len(self._waiting)})

    def close(self) -> None:
        """Finish the window being run, fail what still waits, let go of the graph. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _may_push(self, count: int) -> bool:
        return self._closed or self._has_room(count)

    def _has_room(self, count: int) -> bool:
        return len(self._waiting) + count <= self._max_waiting

    def _push(self, requests: Sequence[Request]) -> None:
        if self._closed:
            raise EngineClosedError("the engine is closed; load the artifact again")
        self._waiting.extend(requests)
        self._changed.notify_all()

    def _serve(self) -> None:
        try:
            torch.set_num_threads(self._num_threads)
            if self._probe is not None:
                self._answers([self._probe])
        except Exception as error:
            self._replay.close()
            self._ready.set_exception(
                GraphError(f"the graph fails on its first batch: {error}; compile the artifact again")
            )
            return
        self._ready.set_result(None)
        while window := self._next_window():
            lengths = [len(request.tokens) for request in window]
            for places in cut(lengths, self._batch_tokens, self._limits.max_batch):
                self._run([window[place] for place in places])
            window = []
        self._fail_waiting()
        self._replay.close()

    def _next_window(self) -> list[Request]:
        """What is to be run next, none of it cancelled; empty once the engine is closed."""
        window: list[Request] = []
        tokens = 0
        with self._changed:
            while not window:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return []
                while self._waiting and tokens < self._batch_tokens * self.WINDOW:
                    request = self._waiting.popleft()
                    if request.future.set_running_or_notify_cancel():
                        window.append(request)
                        tokens += len(request.tokens)
            self._changed.notify_all()
        return window

    def _run(self, batch: Sequence[Request]) -> None:
        try:
            rows = self._answers([request.tokens for request in batch])
        except Exception as error:  # one bad batch must not end the thread that serves all others
            failure = error if isinstance(error, GraphError) else GraphError(f"a batch failed: {error}")
            with self._changed:
                self._stats.failed += len(batch)
            for request in batch:
                request.future.set_exception(failure)
            return
        with self._changed:
            self._stats.requests += len(batch)
            self._stats.batches += 1
            self._stats.tokens += sum(len(request.tokens) for request in batch)
        for request, row in zip(batch, rows, strict=True):
            tokens = request.tokens
            request.future.set_result(
                EncoderOutput(tokens.ids, truncated=tokens.truncated, **{self._output.name: row})
            )

    def _answers(self, batch: Sequence[Tokens]) -> list[np.ndarray]:
        sizes = fill(self._replay, batch)
        (answer,) = self._replay.run(sizes)
        array = answer.numpy()
        if not self._output.per_token:
            return list(array[: len(batch)].copy())
        ends = np.cumsum([len(item) for item in batch])
        return [part.copy() for part in np.split(array[: ends[-1]], ends[:-1])]

    def _fail_waiting(self) -> None:
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        for request in waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(
                    EngineClosedError("the engine was closed before it could answer")
                )
