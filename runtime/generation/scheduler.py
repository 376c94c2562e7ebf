"""Schedules requests onto sequences and KV cache blocks, in order of arrival. Callers hold a lock."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence

from precast.runtime.errors import QueueFullError, RequestTooLargeError
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.request import Request, RequestState, Reservation


class Scheduler:
    """A queue of requests, and the reservations of running ones.

    If the first request in the queue does not fit, later ones wait too, so that large requests do not starve.
    Encoding several sources in one batch is cheaper than one by one, so ``schedule`` collects requests while
    others run, but delays none by more than ``max_batch_delay_steps`` steps.

    Args:
        num_seqs: Sequences of decoder state.
        self_cache: Blocks of the self-attention KV cache; only the scheduler reserves them.
        cross_cache: Blocks of the cross-attention KV cache; only the scheduler reserves them.
        max_waiting: Most requests in the queue.
        source_batch_tokens: Most source tokens of one ``encode_source`` batch.
        source_batch: Most requests of one ``encode_source`` batch.
        max_batch_delay_steps: Decode steps, counted from the call of ``schedule`` in which the request could
            first have run.

    Raises:
        ValueError: A number is below 1, or ``max_batch_delay_steps`` below 0.
    """

    def __init__(
        self,
        num_seqs: int,
        self_cache: BlockAllocator,
        cross_cache: BlockAllocator,
        *,
        max_waiting: int,
        source_batch_tokens: int,
        source_batch: int,
        max_batch_delay_steps: int,
    ) -> None:
        if min(num_seqs, max_waiting, source_batch_tokens, source_batch) < 1 or max_batch_delay_steps < 0:
            raise ValueError(
                f"expected counts of at least 1 and max_batch_delay_steps of at least 0; found {num_seqs=}, "
                f"{max_waiting=}, {source_batch_tokens=}, {source_batch=}, {max_batch_delay_steps=}"
            )
        self.num_seqs, self.self_cache, self.cross_cache = num_seqs, self_cache, cross_cache
        self.max_waiting, self._max_batch_delay_steps = max_waiting, max_batch_delay_steps
        self._source_batch_tokens, self._source_batch = source_batch_tokens, source_batch
        # A heap: the lowest numbers are assigned first, so that active sequences are close to each other.
        self._free_seq_ids = list(range(num_seqs))
        self._arrivals = 0
        # By arrival. Removing from the middle is slow in a deque, finding the first entry is slow in a dict.
        self._queue: OrderedDict[int, Request] = OrderedDict()
        self._running: dict[Request, Reservation] = {}
        self._deadlines = _Deadlines()

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of requests with a reservation; a cancelled one keeps it until ``finish``."""
        return len(self._running)

    @property
    def num_seqs_used(self) -> int:
        """Number of reserved sequences."""
        return self.num_seqs - len(self._free_seq_ids)

    @property
    def full(self) -> bool:
        """Whether the queue is full."""
        return len(self._queue) >= self.max_waiting

    def check(self, request: Request) -> None:
        """Check that an empty engine could run the request.

        Raises:
            RequestTooLargeError: The request needs more than the engine has.
        """
        num_seqs, self_blocks, cross_blocks, tokens, _ = self._cost(request)
        for needed, limit, unit, remedy in (
            (num_seqs, self.num_seqs, "sequences", "ask for fewer beams or return sequences"),
            (tokens, self._source_batch_tokens, "source tokens in one batch", "shorten the source"),
            (
                self_blocks,
                self.self_cache.capacity,
                "blocks of the self-attention KV cache",
                "ask for fewer sequences or target tokens",
            ),
            (
                cross_blocks,
                self.cross_cache.capacity,
                "blocks of the cross-attention KV cache",
                "shorten the source",
            ),
        ):
            if needed > limit:
                raise RequestTooLargeError(
                    f"{num_seqs} sequences (beams, samples) of {request.target_tokens} target and {tokens} "
                    f"source tokens need {needed} {unit}; the engine has {limit}; {remedy}, or load the "
                    f"artifact with a larger kv_cache_bytes or batch_tokens"
                )

    def add(self, request: Request) -> None:
        """Append a request to the queue.

        Raises:
            RequestTooLargeError: The request could never run, and would block the queue for ever.
            QueueFullError: ``max_waiting`` requests are queued.
            ValueError: The request was added before.
        """
        if request.arrival >= 0:
            raise ValueError(f"a request is added once; found one that is {request.state}; make a new one")
        self.check(request)
        if self.full:
            raise QueueFullError(
                f"{self.waiting} requests are queued; try again later, or load with a larger max_waiting"
            )
        request.arrival = self._arrivals
        self._arrivals += 1
        self._queue[request.arrival] = request
        self._deadlines.add(request)

    def schedule(self, step: int) -> list[Request]:
        """Start the next batch of requests and reserve their sequences and blocks.

        Args:
            step: Number of decode steps so far.

        Returns:
            The requests to encode now, in order of arrival; often none. They fit one ``encode_source`` batch.
        """
        collected, complete = self._collect()
        if not collected:
            return []
        for request in collected:
            request.delayed_since = step if request.delayed_since < 0 else request.delayed_since
        # The first request was delayed longest: later ones are never collected without it.
        delay = step - collected[0].delayed_since
        if self._running and not complete and delay < self._max_batch_delay_steps:
            return []
        for request in collected:
            self._reserve(request)
        return collected

    def finish(self, request: Request) -> None:
        """Release the reservation of a request.

        Raises:
            ValueError: The request has no reservation of this scheduler.
        """
        reservation = self._running.get(request)
        if reservation is None or request.reservation is not reservation:
            raise ValueError(
                f"a request is finished once, by the scheduler that started it; found one that is "
                f"{request.state}"
            )
        del self._running[request]
        request.state, request.reservation = "finished", None
        for seq_id in reservation.seq_ids:
            heapq.heappush(self._free_seq_ids, seq_id)
        for blocks in reservation.self_blocks:
            self.self_cache.release(blocks)
        self.cross_cache.release(reservation.cross_blocks)

    def cancel(self, request: Request) -> RequestState:
        """Cancel a request. A running one keeps its reservation until the caller calls ``finish``.

        Returns:
            The previous state of the request; nothing changes if it was ``finished`` already.

        Raises:
            KeyError: The request was never added.
        """
        state = request.state
        if state == "waiting":
            del self._queue[request.arrival]
        request.state = "finished"
        return state

    def expired(self, now: float) -> list[Request]:
        """Return unfinished requests whose deadline has passed, each once; the caller ends them."""
        return self._deadlines.until(now)

    def next_deadline(self) -> float | None:
        """Return the earliest deadline of unfinished requests that ``expired`` has not returned yet."""
        return self._deadlines.next()

    def _collect(self) -> tuple[list[Request], bool]:
        """Return the front of the queue that fits now, and whether no further request could be added."""
        room: Sequence[int] = (
            len(self._free_seq_ids),
            self.self_cache.free,
            self.cross_cache.free,
            self._source_batch_tokens,
            self._source_batch,
        )
        collected: list[Request] = []
        for request in self._queue.values():
            room = [left - needed for left, needed in zip(room, self._cost(request), strict=True)]
            if min(room) < 0:
                return collected, True
            collected.append(request)
        # Every request needs at least one unit of each resource.
        return collected, min(room) == 0

    def _cost(self, request: Request) -> tuple[int, ...]:
        """Return the needed sequences, self- and cross-attention blocks, source tokens, and requests (1)."""
        self_blocks = request.num_seqs * self.self_cache.blocks_for(request.target_tokens)
        cross_blocks = self.cross_cache.blocks_for(request.source_tokens)
        return request.num_seqs, self_blocks, cross_blocks, request.source_tokens, 1

    def _reserve(self, request: Request) -> None:
        reservation = Reservation(
            seq_ids=tuple(heapq.heappop(self._free_seq_ids) for _ in range(request.num_seqs)),
            self_blocks=tuple(
                _blocks(self.self_cache, request.target_tokens) for _ in range(request.num_seqs)
            ),
            cross_blocks=_blocks(self.cross_cache, request.source_tokens),
        )
        del self._queue[request.arrival]
        self._running[request] = request.reservation = reservation
        request.state = "running"


class _Deadlines:
    """The deadlines of unfinished requests, earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._sweep_at = 64

    def add(self, request: Request) -> None:
        if request.future.deadline is None:
            return
        heapq.heappush(self._heap, (request.future.deadline, request.arrival, request))
        # Most requests finish long before their deadline: sweep finished ones, so that they are released.
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].state != "finished"]
            heapq.heapify(self._heap)
            self._sweep_at = 64 + 2 * len(self._heap)

    def next(self) -> float | None:
        while self._heap and self._heap[0][2].state == "finished":
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def until(self, now: float) -> list[Request]:
        expired = []
        while (earliest := self.next()) is not None and earliest <= now:
            expired.append(heapq.heappop(self._heap)[2])
        return expired


def _blocks(cache: BlockAllocator, tokens: int) -> tuple[int, ...]:
    blocks = cache.reserve(tokens)
    assert blocks is not None, "blocks of the scheduler's KV cache were reserved elsewhere"
    return blocks
