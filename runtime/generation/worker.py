"""The one thread that generates: admits what waits, takes all rows on together, hands out what has ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from precast.runtime.cpu.thread_pool import ThreadPool
from precast.runtime.errors import DeviceFailedError, EngineClosedError, InferenceError, RequestTimeoutError
from precast.runtime.generation.decode_loop import Decoding
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.scheduler import Need, Placement, Scheduler, Ticket
from precast.runtime.generation.stats import GenerationStats
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens

_LONGEST_WAIT = 3600.0


class EncodeJob:
    """Sources that shall only be encoded."""

    def __init__(self, tokens: Sequence[Tokens]) -> None:
        self.tokens = tokens
        self.futures: list[Future[EncoderOutput]] = [Future() for _ in tokens]


class GenerationWorker:
    """Owns the decoder's state and its kv_cache.

    Whoever makes a request puts it into the scheduler's queue; all else is done by the thread. Between
    two looks at the rows it takes ``steps_per_sync`` steps; requests join, are cancelled and end at looks.

    Args:
        decoding: the running requests; nobody else may use it from now on.
        scheduler: over the same rows and kv_cache.
        steps_per_sync: decode steps between looks.
        threads: of threads that compute with it.

    When the device fails, all that runs, all that waits and all that comes later meets the same
    DeviceFailedError.

    Raises:
        InferenceError: the graphs could not be set up.
    """

    def __init__(
        self,
        decoding: Decoding,
        scheduler: Scheduler,
        *,
        steps_per_sync: int,
        threads: ThreadPool,
    ) -> None:
        self._decoding = decoding
        self._scheduler = scheduler
        self._steps_per_sync = steps_per_sync
        self._threads = threads
        self._changed = threading.Condition()
        # By future: one that held its request would make a circle, which only the garbage collector ends.
        self._tickets: dict[Future[GenerateOutput], Ticket] = {}
        self._jobs: deque[EncodeJob] = deque()
        self._cancelled: deque[Future[GenerateOutput]] = deque()
        self._closed = False
        self._failure: DeviceFailedError | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="precast-generation", daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self._thread.join()
            raise

    def offer(self, request: GenerateRequest, timeout: float | None = None) -> None:
        """Queue one request at once or not at all.

        Args:
            request: to be answered through its future, which may be cancelled at any moment.
            timeout: seconds from now after which it is given up.

        Raises:
            RequestTooLargeError: it could not run in an empty engine.
            QueueFullError: as many as may wait do.
            EngineClosedError: the engine was closed.
            DeviceFailedError: the device failed before.
        """
        with self._changed:
            self._push(request, timeout)

    def add(self, request: GenerateRequest, timeout: float | None = None) -> None:
        """As ``offer``, but waits while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._scheduler.full)
            self._push(request, timeout)

    def encode(self, tokens: Sequence[Tokens]) -> list[Future[EncoderOutput]]:
        """Run sources through the encoder alone."""
        job = EncodeJob(tokens)
        with self._changed:
            self._check_open()
            self._jobs.append(job)
            self._changed.notify_all()
        return job.futures

    def check(self, request: GenerateRequest) -> None:
        """Whether the request could ever run.

        Raises:
            RequestTooLargeError: it could not.
        """
        self._scheduler.check(_need(request))

    def stats(self) -> GenerationStats:
        with self._changed:
            scheduler, counts = self._scheduler, self._decoding.counts
            captures = self._decoding.stepper.captures
            return GenerationStats(
                requests=counts.requests,
                failed=counts.failed,
                cancelled=counts.cancelled,
                tokens=counts.tokens,
                steps=counts.steps,
                source_batches=counts.source_batches,
                waiting=scheduler.waiting,
                running=scheduler.running,
                rows=scheduler.rows,
                num_seqs_used=scheduler.num_seqs_used,
                self_blocks=scheduler.own.capacity,
                self_blocks_used=scheduler.own.used,
                cross_blocks=scheduler.cross.capacity,
                cross_blocks_used=scheduler.cross.used,
                kv_cache_bytes=self._decoding.stepper.kv_cache_bytes,
                captures=captures,
                capture_seconds=sum(one.seconds for one in captures),
                graph_bytes=sum(one.bytes for one in captures),
                tokens_per_second=counts.speed.per_second(),
            )

    def close(self) -> None:
        """Fail what runs and what waits, end the thread. May be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _push(self, request: GenerateRequest, timeout: float | None) -> None:
        self._check_open()
        need = _need(request)
        self._scheduler.check(need)
        ticket = Ticket(need, None if timeout is None else request.made + timeout, request)
        self._scheduler.add(ticket)
        self._tickets[request.future] = ticket
        request.future.add_done_callback(self._note_cancelled)
        self._changed.notify_all()

    def _note_cancelled(self, future: Future[GenerateOutput]) -> None:
        """Called by whoever ends the future; the thread itself does so with answers and errors only."""
        if future.cancelled():
            self._cancelled.append(future)
            if threading.current_thread() is not self._thread:
                with self._changed:
                    self._changed.notify_all()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise EngineClosedError("the engine is closed; load the artifact again")

    def _serve(self) -> None:
        try:
            self._threads.resume()
            self._decoding.prepare()
        except BaseException as error:
            self._decoding.close()
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while self._wait_for_work():
                self._turn()
            self._fail_all(EngineClosedError("the engine was closed before it could answer"))
        except DeviceFailedError as error:
            self._end(error)
            self._fail_all(error)
        except Exception as error:  # nothing may be left without an answer, whatever this is
            self._end(None)
            self._fail_all(EngineClosedError(f"the engine failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._decoding.close()

    def _turn(self) -> None:
        self._drop()
        self._encode_source()
        self._encode_one()
        self._decoding.run(self._steps_per_sync)
        self._release(self._decoding.take_ended())

    def _end(self, failure: DeviceFailedError | None) -> None:
        """Take no more requests; who waits for room in the queue wakes up."""
        with self._changed:
            self._closed, self._failure = True, failure
            self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """Until there is something to do; False once the engine is closed."""
        with self._changed:
            if not self._changed.wait_for(self._has_work, self._threads.idle_timeout):
                self._threads.suspend()
                self._changed.wait_for(self._has_work)
            return not self._closed

    def _has_work(self) -> bool:
        scheduler = self._scheduler
        return bool(self._closed or scheduler.running or scheduler.waiting or self._jobs or self._cancelled)

    def _drop(self) -> None:
        """Let go of requests that were cancelled or whose time is over."""
        ended: list[Placement] = []
        with self._changed:
            while self._cancelled:
                ended += self._leave(self._cancelled.popleft(), None)
            for ticket in self._scheduler.expired(time.monotonic()):
                waited = time.monotonic() - ticket.payload.made
                error = RequestTimeoutError(
                    f"the request's timeout was over after {waited:.3f} seconds; {ticket.state}"
                )
                ended += self._leave(ticket.payload.future, error)
        self._release(ended)

    def _leave(self, future: Future[GenerateOutput], error: InferenceError | None) -> list[Placement]:
        ticket = self._tickets.pop(future, None)
        if ticket is None:
            return []
        was = self._scheduler.cancel(ticket)
        self._decoding.count_end(ticket.payload, error)
        self._changed.notify_all()
        return self._decoding.remove(ticket.payload) if was == "running" else []

    def _encode_source(self) -> None:
        if not self._decoding.stepper.can_encode():
            return
        with self._changed:
            placements = self._scheduler.schedule(self._decoding.counts.steps)
            if placements:
                self._changed.notify_all()
        if placements:
            self._release(self._decoding.start(placements))

    def _encode_one(self) -> None:
        """One job between steps; it is as long as its maker cut it."""
        with self._changed:
            job = self._jobs.popleft() if self._jobs else None
        if job is not None:
            self._decoding.encode(job.tokens, job.futures)

    def _release(self, placements: Sequence[Placement]) -> None:
        with self._changed:
            for placement in placements:
                self._tickets.pop(placement.ticket.payload.future, None)
                self._scheduler.finish(placement)

    def _fail_all(self, error: InferenceError) -> None:
        with self._changed:
            requests = [ticket.payload for ticket in self._tickets.values()]
            jobs = list(self._jobs)
            self._tickets.clear()
            self._jobs.clear()
        for request in requests:
            request.settle(error)
        for job in jobs:
            for future in job.futures:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)


def _need(request: GenerateRequest) -> Need:
    return Need(request.plan.rows, request.plan.max_length, len(request.tokens))
