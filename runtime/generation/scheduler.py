"""Which requests run: rows and blocks are dealt out strictly in order of arrival. Callers hold a lock."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

from precast.runtime.errors import QueueFullError, RequestTooLargeError
from precast.runtime.generation.block_allocator import BlockAllocator

State = Literal["waiting", "running", "over"]


@dataclass(frozen=True)
class Need:
    """What a request takes while it runs.

    Args:
        rows: of state, one for each beam or sample.
        self_tokens: positions that each row may reach; every row has blocks of its own.
        cross_tokens: of the source, stored once for all rows.

    Raises:
        ValueError: one of them is below 1.
    """

    rows: int
    self_tokens: int
    cross_tokens: int

    def __post_init__(self) -> None:
        if min(self.rows, self.self_tokens, self.cross_tokens) < 1:
            raise ValueError(f"a request needs at least 1 row, 1 self token and 1 cross token; found {self}")


@dataclass(eq=False)
class Ticket:
    """A request in the eyes of the scheduler, which alone writes all but the first three fields.

    Args:
        need: what it takes.
        deadline: when its time is over, in seconds as ``expired`` is asked; None if never.
        payload: the caller's own; never looked at.
        arrival: its number in the order of ``add``; -1 before.
        gathered: the step at which ``encode_source`` first could have admitted it; -1 before.
        state: ``over`` once it was cancelled or finished.
    """

    need: Need
    deadline: float | None = None
    payload: Any = None
    arrival: int = field(default=-1, init=False)
    gathered: int = field(default=-1, init=False)
    state: State = field(default="waiting", init=False)


@dataclass(frozen=True)
class Placement:
    """What an admitted request holds until ``finish``: rows of state, blocks of the self kv_cache for
    each of these rows, and blocks of the cross kv_cache."""

    ticket: Ticket
    rows: tuple[int, ...]
    self_blocks: tuple[tuple[int, ...], ...]
    cross_blocks: tuple[int, ...]


class Scheduler:
    """A queue of tickets, and the rows and blocks that the running ones hold.

    Nobody overtakes: a head of the queue that does not fit stops the line, so that large requests do not
    starve. Encoding several sources together costs less than one after the other, so that ``encode_source`` gathers
    while rows are running, but holds nobody back who could run for more than ``max_batch_delay_steps`` steps.

    Args:
        rows: of state.
        own, cross: blocks of the self and the cross kv_cache; nobody else reserves there.
        max_waiting: requests that may wait.
        source_batch_tokens, source_batch: source tokens and requests that may be admitted together.
        max_batch_delay_steps: decode steps, counted from the call of ``encode_source`` that first could have admitted a request.

    Raises:
        ValueError: a number is below 1, or ``max_batch_delay_steps`` below 0.
    """

    def __init__(
        self,
        rows: int,
        own: BlockAllocator,
        cross: BlockAllocator,
        *,
        max_waiting: int,
        source_batch_tokens: int,
        source_batch: int,
        max_batch_delay_steps: int,
    ) -> None:
        if min(rows, max_waiting, source_batch_tokens, source_batch) < 1 or max_batch_delay_steps < 0:
            raise ValueError(
                f"what is counted is at least 1, max_batch_delay_steps at least 0; found {rows=}, {max_waiting=}, "
                f"{source_batch_tokens=}, {source_batch=}, {max_batch_delay_steps=}"
            )
        self.rows, self.own, self.cross = rows, own, cross
        self._max_waiting, self._max_batch_delay_steps = max_waiting, max_batch_delay_steps
        self._source_batch_tokens, self._source_batch = source_batch_tokens, source_batch
        # A heap: the lowest numbers are dealt out first, so that active rows lie close together.
        self._free_rows = list(range(rows))
        self._arrivals = 0
        # By arrival. A deque is slow to give up what lies in its middle, and a dict to find its head.
        self._queue: OrderedDict[int, Ticket] = OrderedDict()
        self._placements: dict[Ticket, Placement] = {}
        self._deadlines = _Deadlines()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that hold rows and blocks; a cancelled one does until ``finish``."""
        return len(self._placements)

    @property
    def num_seqs_used(self) -> int:
        """Rows that requests hold."""
        return self.rows - len(self._free_rows)

    @property
    def full(self) -> bool:
        """Whether ``add`` would refuse."""
        return len(self._queue) >= self._max_waiting

    def check(self, need: Need) -> None:
        """Whether an empty engine could run it.

        Raises:
            RequestTooLargeError: it could not.
        """
        rows, own, cross, tokens, _ = self._cost(need)
        for needed, most, what, remedy in (
            (rows, self.rows, "rows", "ask for fewer beams or sequences"),
            (tokens, self._source_batch_tokens, "source tokens in one batch", "shorten the source"),
            (own, self.own.capacity, "blocks of the self kv_cache", "ask for fewer rows or target tokens"),
            (cross, self.cross.capacity, "blocks of the cross kv_cache", "shorten the source"),
        ):
            if needed > most:
                raise RequestTooLargeError(
                    f"{rows} rows (beams, samples) of {need.self_tokens} target and {tokens} source tokens "
                    f"need {needed} {what}; the engine has {most}; {remedy}, or load with more room"
                )

    def add(self, ticket: Ticket) -> None:
        """Put a ticket at the end of the queue.

        Raises:
            RequestTooLargeError: it could never be admitted, and would stop the line for good.
            QueueFullError: as many as may wait do.
            ValueError: the ticket was added before.
        """
        if ticket.arrival >= 0:
            raise ValueError(f"a ticket is added once; found one that is {ticket.state}; make a new one")
        self.check(ticket.need)
        if self.full:
            raise QueueFullError(
                f"{self.waiting} requests wait; try later, or load with a larger max_waiting"
            )
        ticket.arrival = self._arrivals
        self._arrivals += 1
        self._queue[ticket.arrival] = ticket
        self._deadlines.add(ticket)

    def schedule(self, step: int) -> list[Placement]:
        """Begin the requests that shall be encoded together now; often none.

        Args:
            step: decode steps done so far.

        Returns:
            in order of arrival; at most ``source_batch``, of at most ``source_batch_tokens`` source tokens.
        """
        gathered, complete = self._gather()
        if not gathered:
            return []
        for ticket in gathered:
            ticket.gathered = step if ticket.gathered < 0 else ticket.gathered
        # The first has been held back longest: nobody behind it was ever gathered without it.
        held = step - gathered[0].gathered
        if self._placements and not complete and held < self._max_batch_delay_steps:
            return []
        return [self._place(ticket) for ticket in gathered]

    def finish(self, placement: Placement) -> None:
        """Take back what a request holds.

        Raises:
            ValueError: it holds nothing (any more).
        """
        ticket = placement.ticket
        if self._placements.get(ticket) is not placement:
            raise ValueError(
                f"what encode_source gave is finished once; found one of a request that is {ticket.state}"
            )
        del self._placements[ticket]
        ticket.state = "over"
        for row in placement.rows:
            heapq.heappush(self._free_rows, row)
        for blocks in placement.self_blocks:
            self.own.release(blocks)
        self.cross.release(placement.cross_blocks)

    def cancel(self, ticket: Ticket) -> State:
        """End a request early. What a running one holds it keeps until the caller calls ``finish``.

        Returns:
            what it was until now; of one that was ``over`` already nothing changes.

        Raises:
            KeyError: it was never added.
        """
        was = ticket.state
        if was == "waiting":
            del self._queue[ticket.arrival]
        ticket.state = "over"
        return was

    def expired(self, now: float) -> list[Ticket]:
        """Those waiting or running whose deadline is not after ``now``, each once; the caller ends them."""
        return self._deadlines.until(now)

    def next_deadline(self) -> float | None:
        """The soonest deadline of those waiting or running that ``expired`` did not give yet, if any."""
        return self._deadlines.next()

    def _gather(self) -> tuple[list[Ticket], bool]:
        """The head of the queue that fits now, and whether nobody could join it if more were waiting."""
        room = [
            len(self._free_rows),
            self.own.free,
            self.cross.free,
            self._source_batch_tokens,
            self._source_batch,
        ]
        gathered: list[Ticket] = []
        for ticket in self._queue.values():
            room = [left - taken for left, taken in zip(room, self._cost(ticket.need), strict=True)]
            if min(room) < 0:
                return gathered, True
            gathered.append(ticket)
        # A request needs at least one of each.
        return gathered, min(room) == 0

    def _cost(self, need: Need) -> tuple[int, ...]:
        """Rows, blocks of either cache, source tokens and requests that it takes of an encoding."""
        own = need.rows * self.own.blocks_for(need.self_tokens)
        return need.rows, own, self.cross.blocks_for(need.cross_tokens), need.cross_tokens, 1

    def _place(self, ticket: Ticket) -> Placement:
        need = ticket.need
        placement = Placement(
            ticket,
            rows=tuple(heapq.heappop(self._free_rows) for _ in range(need.rows)),
            self_blocks=tuple(_reserved(self.own, need.self_tokens) for _ in range(need.rows)),
            cross_blocks=_reserved(self.cross, need.cross_tokens),
        )
        del self._queue[ticket.arrival]
        self._placements[ticket] = placement
        ticket.state = "running"
        return placement


class _Deadlines:
    """The deadlines of the tickets that are not over, the soonest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Ticket]] = []
        self._sweep_at = 64

    def add(self, ticket: Ticket) -> None:
        if ticket.deadline is None:
            return
        heapq.heappush(self._heap, (ticket.deadline, ticket.arrival, ticket))
        # Most end long before their time: without this, whatever was served in an hour would lie here.
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if entry[2].state != "over"]
            heapq.heapify(self._heap)
            self._sweep_at = 64 + 2 * len(self._heap)

    def next(self) -> float | None:
        while self._heap and self._heap[0][2].state == "over":
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def until(self, now: float) -> list[Ticket]:
        named = []
        while (soonest := self.next()) is not None and soonest <= now:
            named.append(heapq.heappop(self._heap)[2])
        return named


def _reserved(cache: BlockAllocator, tokens: int) -> tuple[int, ...]:
    blocks = cache.reserve(tokens)
    assert blocks is not None, "somebody else reserved in the scheduler's kv_cache"
    return blocks
