"""The scheduler against a plain model of it under drawn events, and its edges one by one."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from precast.runtime.errors import InputError, QueueFullError, RequestTooLargeError
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.scheduler import Need, Placement, Scheduler, Ticket

EVENTS = 10_000
SMALLEST = Ticket(Need(1, 1, 1))
NEEDS = st.builds(Need, st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))


class Machine(RuleBasedStateMachine):
    """``line`` and ``held`` are what the scheduler should believe; everything is counted afresh from them."""

    events = 0

    @initialize(
        rows=st.integers(3, 24),
        own=st.builds(BlockAllocator, st.integers(15, 120), st.integers(1, 4)),
        cross=st.builds(BlockAllocator, st.integers(6, 60), st.integers(1, 4)),
        max_waiting=st.integers(1, 8),
        source_batch_tokens=st.integers(6, 30),
        source_batch=st.integers(1, 6),
        max_batch_delay_steps=st.integers(0, 5),
    )
    def begin(
        self,
        rows: int,
        own: BlockAllocator,
        cross: BlockAllocator,
        max_waiting: int,
        source_batch_tokens: int,
        source_batch: int,
        max_batch_delay_steps: int,
    ) -> None:
        self.own, self.cross, self.max_batch_delay_steps = own, cross, max_batch_delay_steps
        self.rows, self.max_waiting = rows, max_waiting
        self.source_batch_tokens, self.source_batch = source_batch_tokens, source_batch
        self.scheduler = Scheduler(
            rows,
            own,
            cross,
            max_waiting=max_waiting,
            source_batch_tokens=source_batch_tokens,
            source_batch=source_batch,
            max_batch_delay_steps=max_batch_delay_steps,
        )
        self.line: list[Ticket] = []
        self.held: list[Placement] = []
        self.cancelled: list[Placement] = []
        self.over: list[Ticket] = []
        self.named: set[Ticket] = set()
        self.ready_since: dict[Ticket, int] = {}
        self.step, self.now = 0, 0.0

    def free_rows(self) -> list[int]:
        taken = {row for one in self.held for row in one.rows}
        return [row for row in range(self.rows) if row not in taken]

    def used(self, cache: BlockAllocator) -> int:
        """Blocks that those who run should hold."""
        return blocks_of([one.ticket for one in self.held], self.own, self.cross)[cache is self.cross]

    def fits(self, tickets: Sequence[Ticket]) -> bool:
        """Whether they could be admitted together."""
        own, cross = blocks_of(tickets, self.own, self.cross)
        return (
            len(tickets) <= self.source_batch
            and sum(one.need.cross_tokens for one in tickets) <= self.source_batch_tokens
            and sum(one.need.rows for one in tickets) <= len(self.free_rows())
            and own + self.used(self.own) <= self.own.capacity
            and cross + self.used(self.cross) <= self.cross.capacity
        )

    def possible(self, need: Need) -> bool:
        """Whether it would fit if nothing ran."""
        own, cross = blocks_of([Ticket(need)], self.own, self.cross)
        return (
            need.rows <= self.rows
            and need.cross_tokens <= self.source_batch_tokens
            and own <= self.own.capacity
            and cross <= self.cross.capacity
        )

    @rule(requests=st.lists(st.tuples(NEEDS, st.none() | st.integers(0, 20)), min_size=1, max_size=3))
    def arrive(self, requests: list[tuple[Need, int | None]]) -> None:
        for need, wait in requests:
            self.add(need, wait)

    def add(self, need: Need, wait: int | None) -> None:
        Machine.events += 1
        ticket = Ticket(need, None if wait is None else self.now + wait)
        if not self.possible(need):
            with pytest.raises(RequestTooLargeError):
                self.scheduler.add(ticket)
        elif len(self.line) == self.max_waiting:
            with pytest.raises(QueueFullError):
                self.scheduler.add(ticket)
        else:
            self.scheduler.add(ticket)
            self.line.append(ticket)

    @precondition(lambda self: self.line)
    @rule(looks=st.lists(st.integers(0, 4), min_size=1, max_size=4))
    def decode(self, looks: list[int]) -> None:
        for steps in looks:
            self.schedule(steps)

    def schedule(self, steps: int) -> None:
        Machine.events += 1
        self.step += steps
        count = max(count for count in range(len(self.line) + 1) if self.fits(self.line[:count]))
        able, behind, free = self.line[:count], self.line[count:], self.free_rows()
        for ticket in able:
            self.ready_since.setdefault(ticket, self.step)
        patient = bool(able) and self.step - self.ready_since[able[0]] < self.max_batch_delay_steps
        another = self.fits([*able, behind[0] if behind else SMALLEST])
        placements = self.scheduler.schedule(self.step)
        held_back = self.held and patient and another
        assert [placement.ticket for placement in placements] == ([] if held_back else able)
        self.check_placements(placements, free)
        self.held += placements
        self.line = self.line[len(placements) :]

    def check_placements(self, placements: Sequence[Placement], free: list[int]) -> None:
        assert [row for one in placements for row in one.rows] == free[
            : sum(len(one.rows) for one in placements)
        ]
        for placement in placements:
            need = placement.ticket.need
            assert placement.ticket.state == "running"
            assert len(placement.rows) == len(placement.self_blocks) == need.rows
            for blocks in placement.self_blocks:
                assert len(blocks) == -(-need.self_tokens // self.own.block_size)
            assert len(placement.cross_blocks) == -(-need.cross_tokens // self.cross.block_size)

    def take(self, placement: Placement) -> None:
        self.scheduler.finish(placement)
        self.held.remove(placement)
        self.over.append(placement.ticket)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        Machine.events += 1
        placement = data.draw(st.sampled_from(self.held))
        self.take(placement)
        with pytest.raises(ValueError, match="finished once"):
            self.scheduler.finish(placement)

    @precondition(lambda self: self.line or self.held)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everyone = [*self.line, *(one.ticket for one in self.held), *self.over]
        Machine.events += 1
        self.end(data.draw(st.sampled_from(everyone)), at_once=data.draw(st.booleans()))

    def end(self, ticket: Ticket, *, at_once: bool) -> None:
        """Cancel; what a running one holds is given back now or by ``finish`` later."""
        was = self.scheduler.cancel(ticket)
        assert ticket.state == "over"
        mine = [one for one in self.held if one.ticket is ticket]
        if ticket in self.line:
            assert was == "waiting"
            self.line.remove(ticket)
            self.over.append(ticket)
        elif mine and mine[0] not in self.cancelled:
            assert was == "running"
            self.cancelled += mine
        else:
            assert was == "over"
        if mine and at_once:
            self.take(mine[0])

    @rule(seconds=st.integers(0, 5), do_cancel=st.booleans())
    def expire(self, seconds: int, do_cancel: bool) -> None:
        Machine.events += 1
        self.now += seconds
        late = [one for one in self.live() if one.deadline is not None and one.deadline <= self.now]
        expired = self.scheduler.expired(self.now)
        assert set(expired) == set(late) and len(expired) == len(late)
        assert expired == sorted(expired, key=lambda one: (one.deadline, one.arrival))
        self.named |= set(expired)
        for ticket in expired if do_cancel else ():
            self.end(ticket, at_once=True)

    def live(self) -> list[Ticket]:
        """Those that are not over and whose deadline was not named yet."""
        running = [one.ticket for one in self.held if one not in self.cancelled]
        return [one for one in (*self.line, *running) if one not in self.named]

    @invariant()
    def nothing_is_held_twice(self) -> None:
        rows = [row for one in self.held for row in one.rows]
        own = [block for one in self.held for blocks in one.self_blocks for block in blocks]
        cross = [block for one in self.held for block in one.cross_blocks]
        for numbers, most in ((rows, self.rows - 1), (own, self.own.capacity), (cross, self.cross.capacity)):
            assert len(set(numbers)) == len(numbers)
            assert all(0 <= number <= most for number in numbers)
        assert 0 not in own and 0 not in cross
        assert (self.own.used, self.cross.used) == (len(own), len(cross))
        for cache in (self.own, self.cross):
            assert cache.used + cache.free == cache.capacity

    @invariant()
    def counts_are_true(self) -> None:
        scheduler = self.scheduler
        assert (scheduler.waiting, scheduler.running) == (len(self.line), len(self.held))
        assert scheduler.num_seqs_used == self.rows - len(self.free_rows())
        assert scheduler.full == (len(self.line) == self.max_waiting)
        assert scheduler.next_deadline() == min(
            (one.deadline for one in self.live() if one.deadline is not None), default=None
        )

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        while self.held or self.line:
            for placement in list(self.held):
                self.take(placement)
            before = len(self.line)
            self.schedule(steps=0)
            assert len(self.line) < before or not before, "an empty engine admits nobody"
        assert (self.own.free, self.cross.free) == (self.own.capacity, self.cross.capacity)
        assert self.scheduler.num_seqs_used == 0
        assert self.scheduler.next_deadline() is None


def blocks_of(tickets: Sequence[Ticket], own: BlockAllocator, cross: BlockAllocator) -> tuple[int, int]:
    """Blocks of either cache that they take together."""
    return (
        sum(one.need.rows * -(-one.need.self_tokens // own.block_size) for one in tickets),
        sum(-(-one.need.cross_tokens // cross.block_size) for one in tickets),
    )


def test_ten_thousand_drawn_events_leave_nothing_held_and_nobody_starving() -> None:
    Machine.events = 0
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=600, stateful_step_count=60, deadline=None)
    )
    assert Machine.events >= EVENTS


def scheduler_of(
    *,
    rows: int = 8,
    own: int = 64,
    cross: int = 64,
    max_waiting: int = 100,
    source_batch_tokens: int = 100,
    source_batch: int = 100,
    max_batch_delay_steps: int = 0,
) -> Scheduler:
    """``own`` and ``cross`` count the blocks of 4 slots that can be dealt out."""
    return Scheduler(
        rows,
        BlockAllocator(own + 1, 4),
        BlockAllocator(cross + 1, 4),
        max_waiting=max_waiting,
        source_batch_tokens=source_batch_tokens,
        source_batch=source_batch,
        max_batch_delay_steps=max_batch_delay_steps,
    )


def added(scheduler: Scheduler, *needs: Need) -> list[Ticket]:
    tickets = [Ticket(need) for need in needs]
    for ticket in tickets:
        scheduler.add(ticket)
    return tickets


def admitted(scheduler: Scheduler, step: int = 0) -> list[Ticket]:
    return [placement.ticket for placement in scheduler.schedule(step)]


SMALL = Need(1, 4, 4)
"""One row, one block of either cache, 4 source tokens."""


def test_an_empty_scheduler_admits_nobody_and_knows_no_deadline() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=3)
    assert scheduler.schedule(0) == []
    assert scheduler.expired(1e9) == []
    assert scheduler.next_deadline() is None
    assert (scheduler.waiting, scheduler.running, scheduler.num_seqs_used, scheduler.full) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("need", "numbers"),
    [
        (Need(5, 1, 1), "need 5 rows; the engine has 4; ask for fewer beams"),
        (Need(1, 1, 21), "need 21 source tokens in one batch; the engine has 20; shorten the source"),
        (Need(3, 9, 1), "need 9 blocks of the self kv_cache; the engine has 8; ask for fewer rows"),
        (Need(1, 1, 17), "need 5 blocks of the cross kv_cache; the engine has 4; shorten the source"),
    ],
)
def test_what_could_never_run_is_refused_with_the_numbers(need: Need, numbers: str) -> None:
    scheduler = scheduler_of(rows=4, own=8, cross=4, source_batch_tokens=20)
    whole = (
        f"{need.rows} rows .* of {need.self_tokens} target and {need.cross_tokens} source tokens {numbers}"
    )
    with pytest.raises(RequestTooLargeError, match=whole) as caught:
        scheduler.check(need)
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)
    with pytest.raises(RequestTooLargeError):
        scheduler.add(Ticket(need))
    assert scheduler.waiting == 0


def test_a_request_that_takes_all_there_is_runs() -> None:
    scheduler = scheduler_of(rows=4, own=8, cross=5, source_batch_tokens=20, source_batch=1)
    everything = Need(4, 8, 20)
    scheduler.check(everything)
    first, second = added(scheduler, everything, SMALL)
    (placement,) = scheduler.schedule(0)
    assert placement.ticket is first and placement.rows == (0, 1, 2, 3)
    assert scheduler.own.free == scheduler.cross.free == 0
    assert scheduler.schedule(1) == []
    scheduler.finish(placement)
    assert admitted(scheduler, 1) == [second]


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, -1, 1)])
def test_a_need_of_nothing_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 row, 1 self token and 1 cross token"):
        Need(*numbers)


@pytest.mark.parametrize("name", ["rows", "max_waiting", "source_batch_tokens", "source_batch"])
def test_a_scheduler_without_room_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"found .*{name}=0"):
        scheduler_of(**{name: 0})
    with pytest.raises(ValueError, match="max_batch_delay_steps=-1"):
        scheduler_of(max_batch_delay_steps=-1)


def test_one_more_than_may_wait_is_refused_and_fits_once_one_has_left() -> None:
    scheduler = scheduler_of(max_waiting=2)
    first, _ = added(scheduler, SMALL, SMALL)
    third = Ticket(SMALL)
    assert scheduler.full
    with pytest.raises(QueueFullError, match="2 requests wait; .* larger max_waiting"):
        scheduler.add(third)
    assert scheduler.cancel(first) == "waiting" and not scheduler.full
    scheduler.add(third)
    assert third.state == "waiting" and scheduler.full


def test_a_ticket_is_added_once_and_cancelled_only_after_that() -> None:
    scheduler = scheduler_of()
    (ticket,) = added(scheduler, SMALL)
    with pytest.raises(ValueError, match="added once; found one that is waiting"):
        scheduler.add(ticket)
    with pytest.raises(KeyError):
        scheduler.cancel(Ticket(SMALL))
    assert scheduler.waiting == 1


def test_nobody_overtakes_a_head_that_does_not_fit() -> None:
    scheduler = scheduler_of(rows=4)
    added(scheduler, Need(2, 4, 4))
    (running,) = scheduler.schedule(0)
    large, small = added(scheduler, Need(3, 4, 4), SMALL)
    assert scheduler.schedule(1) == []
    scheduler.finish(running)
    assert admitted(scheduler, 1) == [large, small]


def test_without_patience_a_request_joins_those_that_run_at_once() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=0)
    for step in range(3):
        (ticket,) = added(scheduler, SMALL)
        assert admitted(scheduler, step) == [ticket]


def test_while_others_run_a_request_waits_for_more_until_patience_ends() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=5)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    first = added(scheduler, SMALL)
    assert scheduler.schedule(10) == []
    second = added(scheduler, SMALL)
    assert scheduler.schedule(14) == []
    assert admitted(scheduler, 15) == [*first, *second]
    third = added(scheduler, SMALL)
    assert scheduler.schedule(15) == scheduler.schedule(19) == []
    assert admitted(scheduler, 20) == third


def test_patience_counts_from_when_a_request_could_run_and_not_from_when_it_came() -> None:
    scheduler = scheduler_of(rows=4, max_batch_delay_steps=5)
    added(scheduler, Need(2, 4, 4), Need(2, 4, 4))
    _, short = scheduler.schedule(0)
    late = added(scheduler, SMALL)
    assert scheduler.schedule(1) == []
    scheduler.finish(short)
    assert scheduler.schedule(40) == scheduler.schedule(44) == []
    assert admitted(scheduler, 45) == late


def test_a_request_held_back_is_not_held_back_anew_when_the_one_before_it_leaves() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=5)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    first, second = added(scheduler, SMALL, SMALL)
    assert scheduler.schedule(0) == []
    scheduler.cancel(first)
    assert scheduler.schedule(4) == []
    assert admitted(scheduler, 5) == [second]


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"source_batch": 2}, 2),
        ({"source_batch_tokens": 8}, 2),
        ({"source_batch_tokens": 11}, 2),
        ({"rows": 4}, 3),
        ({"own": 4}, 3),
        ({"cross": 4}, 3),
    ],
)
def test_gathering_ends_when_nobody_else_could_join(limits: dict[str, int], count: int) -> None:
    scheduler = scheduler_of(max_batch_delay_steps=1000, **limits)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    added(scheduler, *[SMALL] * (count - 1))
    assert scheduler.schedule(1) == []
    added(scheduler, SMALL, *[SMALL] * (limits.get("source_batch_tokens") == 11))
    assert len(scheduler.schedule(1)) == count


def test_a_budget_of_exactly_one_request_admits_one_at_a_time() -> None:
    scheduler = scheduler_of(source_batch_tokens=4, max_batch_delay_steps=1000)
    tickets = added(scheduler, SMALL, SMALL, SMALL)
    assert [admitted(scheduler) for _ in range(4)] == [[tickets[0]], [tickets[1]], [tickets[2]], []]


def test_the_lowest_free_rows_are_dealt_out() -> None:
    scheduler = scheduler_of(rows=6)
    added(scheduler, SMALL, Need(2, 4, 4), SMALL)
    placements = scheduler.schedule(0)
    assert [one.rows for one in placements] == [(0,), (1, 2), (3,)]
    for placement in (placements[1], placements[0]):
        scheduler.finish(placement)
    added(scheduler, Need(4, 4, 4))
    assert [one.rows for one in scheduler.schedule(0)] == [(0, 1, 2, 4)]


def test_each_row_has_pages_of_its_own_and_the_source_is_stored_once() -> None:
    scheduler = scheduler_of()
    added(scheduler, Need(3, 5, 9))
    (placement,) = scheduler.schedule(0)
    assert [len(blocks) for blocks in placement.self_blocks] == [2, 2, 2]
    assert len({block for blocks in placement.self_blocks for block in blocks}) == 6
    assert len(placement.cross_blocks) == 3


def test_a_cancelled_request_that_runs_keeps_what_it_holds_until_it_is_finished() -> None:
    scheduler = scheduler_of(rows=1)
    first, second = added(scheduler, SMALL, SMALL)
    (placement,) = scheduler.schedule(0)
    assert scheduler.cancel(first) == "running"
    assert first.state == "over" and scheduler.running == scheduler.own.used == 1
    assert scheduler.cancel(first) == "over"
    assert scheduler.schedule(1) == []
    scheduler.finish(placement)
    assert scheduler.running == scheduler.own.used == scheduler.cross.used == 0
    assert scheduler.cancel(first) == "over"
    assert admitted(scheduler, 1) == [second]


def test_what_the_scheduler_did_not_place_is_not_taken_back() -> None:
    one, other = scheduler_of(), scheduler_of()
    added(one, SMALL)
    (placement,) = one.schedule(0)
    with pytest.raises(ValueError, match="finished once; found one of a request that is running"):
        other.finish(placement)
    with pytest.raises(ValueError, match="finished once"):
        one.finish(replace(placement, rows=()))
    assert other.own.free == other.own.capacity and one.running == 1


def test_deadlines_are_named_once_soonest_first_whether_waiting_or_running() -> None:
    scheduler = scheduler_of(source_batch=1)
    late, soon, never, ended = tickets = [Ticket(SMALL, when) for when in (7.0, 5.0, None, 1.0)]
    for ticket in tickets:
        scheduler.add(ticket)
    assert admitted(scheduler) == [late]
    scheduler.cancel(ended)
    assert scheduler.next_deadline() == 5.0
    assert scheduler.expired(4.999) == []
    assert scheduler.expired(7.0) == [soon, late]
    assert (soon.state, late.state, never.state) == ("waiting", "running", "waiting")
    assert scheduler.expired(7.0) == [] and scheduler.next_deadline() is None


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_deadlines_survive_the_many_that_end_before_theirs(seed: int) -> None:
    random = Random(seed)
    scheduler = scheduler_of(max_waiting=1000)
    tickets = [Ticket(SMALL, random.random()) for _ in range(400)]
    for ticket in tickets:
        scheduler.add(ticket)
        scheduler.schedule(0)
        # The first few run to the end.
        if ticket.arrival > 4 and random.random() < 0.5:
            scheduler.cancel(random.choice(tickets[4 : ticket.arrival + 1]))
    live = [ticket for ticket in tickets if ticket.state != "over"]
    assert {ticket.state for ticket in tickets[:4]} == {"running"} and len(live) < 350
    assert scheduler.expired(1.0) == sorted(live, key=lambda one: one.deadline or 0.0)


def test_leaving_the_middle_or_the_head_of_a_long_queue_takes_no_time() -> None:
    count = 65_536
    scheduler = scheduler_of(max_waiting=count, source_batch_tokens=4)
    tickets = added(scheduler, *[SMALL] * count)
    begin = time.process_time()
    for ticket in tickets[count // 4 : 3 * count // 4]:
        assert scheduler.cancel(ticket) == "waiting"
    for ticket in (*tickets[: count // 4], *tickets[3 * count // 4 :]):
        (placement,) = scheduler.schedule(0)
        assert placement.ticket is ticket
        scheduler.finish(placement)
    # A second or so; with a walk along the queue each time it is minutes.
    assert time.process_time() - begin < 15
    assert scheduler.waiting == 0


def test_what_is_over_is_not_kept_until_its_deadline() -> None:
    scheduler = scheduler_of()
    kept: weakref.WeakSet[Ticket] = weakref.WeakSet()
    for _ in range(2000):
        ticket = Ticket(SMALL, 1e9)
        kept.add(ticket)
        scheduler.add(ticket)
        scheduler.cancel(ticket)
    gc.collect()
    assert len(kept) < 200
