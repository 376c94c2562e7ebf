"""The core of a generation engine: starts queued requests, decodes running ones and ends finished ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from precast.runtime.batch_result import BatchResult
from precast.runtime.core import EngineCore
from precast.runtime.cpu.thread_pool import ThreadPool
from precast.runtime.errors import InferenceError
from precast.runtime.futures import timeout_error
from precast.runtime.generation.decode_loop import DecodeLoop
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from precast.runtime.stats import GenerationStats


class EncodeJob:
    """One batch of sources that are encoded but not decoded."""

    def __init__(self, tokens: Sequence[Tokens], results: BatchResult[EncoderOutput], indices: Sequence[int]):
        self.tokens = tokens
        self.promises = [results.promise(index) for index in indices]


class GenerationCore(EngineCore):
    """Owns the decoder's state and its KV cache.

    Callers put requests into the scheduler's queue; the thread does everything else. It runs
    ``steps_per_sync`` decode steps between two polls; requests start, are cancelled and end at polls. If the
    device fails, all queued, running and later requests fail with DeviceFailedError.

    Args:
        loop: The decode loop; used by the engine's thread only from now on.
        scheduler: The scheduler of the same sequences and KV cache blocks.
        steps_per_sync: Decode steps between polls.
        threads: The threads that compute.

    Raises:
        InferenceError: The graphs could not be set up.
    """

    def __init__(
        self,
        loop: DecodeLoop,
        scheduler: Scheduler,
        *,
        steps_per_sync: int,
        threads: ThreadPool,
    ) -> None:
        super().__init__("precast-generation", scheduler.max_waiting)
        self._loop = loop
        self._scheduler = scheduler
        self._steps_per_sync = steps_per_sync
        self._threads = threads
        # By future: a callback that referred to its request would form a reference cycle.
        self._requests: dict[Future[GenerateOutput], Request] = {}
        self._jobs: deque[EncodeJob] = deque()
        self._ended_outside: deque[Future[GenerateOutput]] = deque()
        self.start()

    def offer(self, request: Request) -> None:
        """Queue one request, or fail immediately.

        Raises:
            RequestTooLargeError: The request could not run even in an empty engine.
            QueueFullError: ``max_waiting`` requests are queued.
            EngineClosedError, EngineFailedError: The engine was closed or has failed.
        """
        with self._changed:
            self._push(request)

    def add(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Queue one request; waits while the queue is full.

        Returns:
            False if the caller cancelled before the request was queued.

        Raises:
            RequestTimeoutError: The request's deadline passed while the queue was full.
            RequestTooLargeError, EngineClosedError, EngineFailedError: As ``offer``.
        """
        with self._changed:
            if not self._wait_for_room(1, request.future.deadline, cancelled):
                return False
            self._push(request)
        return True

    def encode(
        self, tokens: Sequence[Tokens], results: BatchResult[EncoderOutput], indices: Sequence[int]
    ) -> None:
        """Queue one batch of sources that are only encoded; outputs go to ``indices`` of ``results``."""
        with self._changed:
            self._check_open()
            self._jobs.append(EncodeJob(tokens, results, indices))
            self._changed.notify_all()

    def stats(self) -> GenerationStats:
        """Return the statistics of the engine."""
        with self._changed:
            scheduler, counts = self._scheduler, self._loop.counts
            return GenerationStats(
                requests=counts.requests,
                failed=counts.failed,
                cancelled=counts.cancelled,
                tokens=counts.tokens,
                waiting=scheduler.waiting,
                captures=self._loop.stepper.captures,
                steps=counts.steps,
                source_batches=counts.source_batches,
                running=scheduler.running,
                num_seqs=scheduler.num_seqs,
                num_seqs_used=scheduler.num_seqs_used,
                self_blocks=scheduler.self_cache.capacity,
                self_blocks_used=scheduler.self_cache.used,
                cross_blocks=scheduler.cross_cache.capacity,
                cross_blocks_used=scheduler.cross_cache.used,
                kv_cache_bytes=self._loop.stepper.kv_cache_bytes,
                tokens_per_second=counts.throughput.per_second(),
            )

    @property
    def queued(self) -> int:
        return self._scheduler.waiting

    def _push(self, request: Request) -> None:
        self._check_open()
        self._scheduler.add(request)
        request.future.served_by = self._thread
        self._requests[request.future] = request
        request.future.add_engine_callback(self._note_ended)
        self._changed.notify_all()

    def _note_ended(self, future: Future[GenerateOutput]) -> None:
        """Note a future that its caller ended, by cancelling it or at its deadline."""
        own = threading.current_thread() is self._thread
        if future.cancelled() or not own:
            self._ended_outside.append(future)
            if not own:
                self.wake()

    def _prepare(self) -> None:
        self._threads.resume()
        self._loop.prepare()

    def _has_work(self) -> bool:
        scheduler = self._scheduler
        return bool(scheduler.running or scheduler.waiting or self._jobs or self._ended_outside)

    def _idle_timeout(self) -> float | None:
        return self._threads.idle_timeout

    def _suspend(self) -> None:
        self._threads.suspend()

    def _turn(self) -> None:
        self._drop_ended()
        self._start_requests()
        self._run_job()
        self._loop.run(self._steps_per_sync)
        self._finish(self._loop.take_ended())

    def _drop_ended(self) -> None:
        """Remove requests that were cancelled or have timed out."""
        with self._changed:
            ended: list[tuple[Request | None, InferenceError | None]] = []
            while self._ended_outside:
                ended.append((self._requests.get(self._ended_outside.popleft()), None))
            for late in self._scheduler.expired(time.monotonic()):
                ended.append((late, timeout_error(late.created, late.state)))
            leaving = [
                (request, error, self._scheduler.cancel(request))
                for request, error in ended
                if request is not None and self._requests.pop(request.future, None) is not None
            ]
            self._changed.notify_all()
        for request, error, state in leaving:
            self._loop.end(request, error)
            if state == "running" and self._loop.remove(request):
                self._finish([request])

    def _start_requests(self) -> None:
        if not self._loop.stepper.can_encode():
            return
        with self._changed:
            requests = self._scheduler.schedule(self._loop.counts.steps)
            for request in requests:
                request.future.status = "running"
            if requests:
                self._changed.notify_all()
        if requests:
            self._finish(self._loop.start(requests))

    def _run_job(self) -> None:
        """Encode the sources of one job."""
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
        if job is not None and any([promise.begin() for promise in job.promises]):
            self._loop.encode(job.tokens, job.promises)

    def _finish(self, requests: Sequence[Request]) -> None:
        """Release the sequences and blocks of requests that have ended."""
        if not requests:
            return
        with self._changed:
            for request in requests:
                self._requests.pop(request.future, None)
                self._scheduler.finish(request)
            self._changed.notify_all()

    def _complete(self) -> None:
        """Do nothing: finishing the running requests could take long, so they fail."""

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            requests, jobs = list(self._requests.values()), list(self._jobs)
            self._requests.clear()
            self._jobs.clear()
        for request in requests:
            request.future.fail(error)
        for job in jobs:
            for promise in job.promises:
                promise.fail(error)

    def _release(self) -> None:
        self._loop.close()
