"""The scheduler: random events compared with a simple model, and edge cases."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
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
from precast.runtime.futures import ResultFuture
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.io.tokens import Tokens

EVENTS = 10_000
Sizes = tuple[int, int, int]
"""Sequences, target tokens and source tokens of a request."""
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))


def make(sizes: Sizes, deadline: float | None = None) -> Request:
    """Return a request of the given sizes."""
    num_seqs, target_tokens, source_tokens = sizes
    params = SamplingParams("multinomial", 1, num_seqs, (0,), target_tokens, eos_token_ids=())
    tokens = Tokens(np.zeros(source_tokens, np.int32), None)
    return Request(tokens, params, ResultFuture(deadline))


SMALLEST = make((1, 1, 1))


class Machine(RuleBasedStateMachine):
    """A model of the scheduler: ``line`` is the expected queue, ``held`` the expected running requests."""

    events = 0

    @initialize(
        num_seqs=st.integers(3, 24),
        own=st.builds(BlockAllocator, st.integers(15, 120), st.integers(1, 4)),
        cross=st.builds(BlockAllocator, st.integers(6, 60), st.integers(1, 4)),
        max_waiting=st.integers(1, 8),
        source_batch_tokens=st.integers(6, 30),
        source_batch=st.integers(1, 6),
        max_batch_delay_steps=st.integers(0, 5),
    )
    def begin(
        self,
        num_seqs: int,
        own: BlockAllocator,
        cross: BlockAllocator,
        max_waiting: int,
        source_batch_tokens: int,
        source_batch: int,
        max_batch_delay_steps: int,
    ) -> None:
        self.own, self.cross, self.max_batch_delay_steps = own, cross, max_batch_delay_steps
        self.num_seqs, self.max_waiting = num_seqs, max_waiting
        self.source_batch_tokens, self.source_batch = source_batch_tokens, source_batch
        self.scheduler = Scheduler(
            num_seqs,
            own,
            cross,
            max_waiting=max_waiting,
            source_batch_tokens=source_batch_tokens,
            source_batch=source_batch,
            max_batch_delay_steps=max_batch_delay_steps,
        )
        self.line: list[Request] = []
        self.held: list[Request] = []
        self.cancelled: list[Request] = []
        self.over: list[Request] = []
        self.named: set[Request] = set()
        self.ready_since: dict[Request, int] = {}
        self.step, self.now = 0, 0.0

    def free_seq_ids(self) -> list[int]:
        used = {seq_id for request in self.held for seq_id in request.seq_ids}
        return [seq_id for seq_id in range(self.num_seqs) if seq_id not in used]

    def used(self, cache: BlockAllocator) -> int:
        """Return the blocks that running requests should hold."""
        return blocks_of(self.held, self.own, self.cross)[cache is self.cross]

    def fits(self, requests: Sequence[Request]) -> bool:
        """Return whether the requests fit one batch now."""
        own, cross = blocks_of(requests, self.own, self.cross)
        return (
            len(requests) <= self.source_batch
            and sum(one.source_tokens for one in requests) <= self.source_batch_tokens
            and sum(one.num_seqs for one in requests) <= len(self.free_seq_ids())
            and own + self.used(self.own) <= self.own.capacity
            and cross + self.used(self.cross) <= self.cross.capacity
        )

    def possible(self, request: Request) -> bool:
        """Return whether the request would fit an empty scheduler."""
        own, cross = blocks_of([request], self.own, self.cross)
        return (
            request.num_seqs <= self.num_seqs
            and request.source_tokens <= self.source_batch_tokens
            and own <= self.own.capacity
            and cross <= self.cross.capacity
        )

    @rule(requests=st.lists(st.tuples(SIZES, st.none() | st.integers(0, 20)), min_size=1, max_size=3))
    def arrive(self, requests: list[tuple[Sizes, int | None]]) -> None:
        for sizes, wait in requests:
            self.add(sizes, wait)

    def add(self, sizes: Sizes, wait: int | None) -> None:
        Machine.events += 1
        request = make(sizes, None if wait is None else self.now + wait)
        if not self.possible(request):
            with pytest.raises(RequestTooLargeError):
                self.scheduler.add(request)
        elif len(self.line) == self.max_waiting:
            with pytest.raises(QueueFullError):
                self.scheduler.add(request)
        else:
            self.scheduler.add(request)
            self.line.append(request)

    @precondition(lambda self: self.line)
    @rule(polls=st.lists(st.integers(0, 4), min_size=1, max_size=4))
    def decode(self, polls: list[int]) -> None:
        for steps in polls:
            self.schedule(steps)

    def schedule(self, steps: int) -> None:
        Machine.events += 1
        self.step += steps
        count = max(count for count in range(len(self.line) + 1) if self.fits(self.line[:count]))
        able, behind, free = self.line[:count], self.line[count:], self.free_seq_ids()
        for request in able:
            self.ready_since.setdefault(request, self.step)
        delayed = bool(able) and self.step - self.ready_since[able[0]] < self.max_batch_delay_steps
        another = self.fits([*able, behind[0] if behind else SMALLEST])
        started = self.scheduler.schedule(self.step)
        held_back = self.held and delayed and another
        assert started == ([] if held_back else able)
        self.check_reservations(started, free)
        self.held += started
        self.line = self.line[len(started) :]

    def check_reservations(self, started: Sequence[Request], free: list[int]) -> None:
        assert [row for one in started for row in one.seq_ids] == free[
            : sum(len(one.seq_ids) for one in started)
        ]
        for running in started:
            held = running.held
            assert running.state == "running"
            assert len(held.seq_ids) == len(held.self_blocks) == running.num_seqs
            for blocks in held.self_blocks:
                assert len(blocks) == -(-running.target_tokens // self.own.block_size)
            assert len(held.cross_blocks) == -(-running.source_tokens // self.cross.block_size)

    def take(self, running: Request) -> None:
        self.scheduler.finish(running)
        self.held.remove(running)
        self.over.append(running)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        Machine.events += 1
        running = data.draw(st.sampled_from(self.held))
        self.take(running)
        with pytest.raises(ValueError, match="finished once"):
            self.scheduler.finish(running)

    @precondition(lambda self: self.line or self.held)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everyone = [*self.line, *self.held, *self.over]
        Machine.events += 1
        self.end(data.draw(st.sampled_from(everyone)), immediately=data.draw(st.booleans()))

    def end(self, request: Request, *, immediately: bool) -> None:
        """Cancel a request; a running one is finished now or later."""
        was = self.scheduler.cancel(request)
        assert request.state == "finished"
        mine = [one for one in self.held if one is request]
        if request in self.line:
            assert was == "waiting"
            self.line.remove(request)
            self.over.append(request)
        elif mine and mine[0] not in self.cancelled:
            assert was == "running"
            self.cancelled += mine
        else:
            assert was == "finished"
        if mine and immediately:
            self.take(mine[0])

    @rule(seconds=st.integers(0, 5), do_cancel=st.booleans())
    def expire(self, seconds: int, do_cancel: bool) -> None:
        Machine.events += 1
        self.now += seconds
        late = [
            one for one in self.live() if one.future.deadline is not None and one.future.deadline <= self.now
        ]
        expired = self.scheduler.expired(self.now)
        assert set(expired) == set(late) and len(expired) == len(late)
        assert expired == sorted(expired, key=lambda one: (one.future.deadline, one.arrival))
        self.named |= set(expired)
        for request in expired if do_cancel else ():
            self.end(request, immediately=True)

    def live(self) -> list[Request]:
        """Return unfinished requests with a deadline that ``expired`` has not returned yet."""
        running = [one for one in self.held if one not in self.cancelled]
        return [one for one in (*self.line, *running) if one not in self.named]

    @invariant()
    def nothing_is_held_twice(self) -> None:
        rows = [row for one in self.held for row in one.seq_ids]
        own = [block for one in self.held for blocks in one.held.self_blocks for block in blocks]
        cross = [block for one in self.held for block in one.held.cross_blocks]
        for numbers, most in (
            (rows, self.num_seqs - 1),
            (own, self.own.capacity),
            (cross, self.cross.capacity),
        ):
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
        assert scheduler.num_seqs_used == self.num_seqs - len(self.free_seq_ids())
        assert scheduler.full == (len(self.line) == self.max_waiting)
        assert scheduler.next_deadline() == min(
            (one.future.deadline for one in self.live() if one.future.deadline is not None), default=None
        )

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        while self.held or self.line:
            for running in list(self.held):
                self.take(running)
            before = len(self.line)
            self.schedule(steps=0)
            assert len(self.line) < before or not before, "an empty engine starts nothing"
        assert (self.own.free, self.cross.free) == (self.own.capacity, self.cross.capacity)
        assert self.scheduler.num_seqs_used == 0
        assert self.scheduler.next_deadline() is None


def blocks_of(requests: Sequence[Request], own: BlockAllocator, cross: BlockAllocator) -> tuple[int, int]:
    """Return the total self- and cross-attention blocks of requests."""
    return (
        sum(one.num_seqs * -(-one.target_tokens // own.block_size) for one in requests),
        sum(-(-one.source_tokens // cross.block_size) for one in requests),
    )


def test_random_events_leave_no_reservation_and_no_starving_request() -> None:
    Machine.events = 0
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=600, stateful_step_count=60, deadline=None)
    )
    assert Machine.events >= EVENTS


def scheduler_of(
    *,
    num_seqs: int = 8,
    own: int = 64,
    cross: int = 64,
    max_waiting: int = 100,
    source_batch_tokens: int = 100,
    source_batch: int = 100,
    max_batch_delay_steps: int = 0,
) -> Scheduler:
    """Return a scheduler with ``own`` self-attention and ``cross`` cross-attention blocks of 4 slots."""
    return Scheduler(
        num_seqs,
        BlockAllocator(own + 1, 4),
        BlockAllocator(cross + 1, 4),
        max_waiting=max_waiting,
        source_batch_tokens=source_batch_tokens,
        source_batch=source_batch,
        max_batch_delay_steps=max_batch_delay_steps,
    )


def added(scheduler: Scheduler, *sizes: Sizes) -> list[Request]:
    requests = [make(each) for each in sizes]
    for request in requests:
        scheduler.add(request)
    return requests


def scheduled(scheduler: Scheduler, step: int = 0) -> list[Request]:
    return scheduler.schedule(step)


SMALL: Sizes = (1, 4, 4)
"""One sequence, one block of either cache, 4 source tokens."""


def test_an_empty_scheduler_has_no_request_and_no_deadline() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=3)
    assert scheduler.schedule(0) == []
    assert scheduler.expired(1e9) == []
    assert scheduler.next_deadline() is None
    assert (scheduler.waiting, scheduler.running, scheduler.num_seqs_used, scheduler.full) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ((5, 1, 1), "need 5 sequences; the engine has 4; ask for fewer beams"),
        ((1, 1, 21), "need 21 source tokens in one batch; the engine has 20; shorten the source"),
        (
            (3, 9, 1),
            "need 9 blocks of the self-attention KV cache; the engine has 8; ask for fewer sequences",
        ),
        ((1, 1, 17), "need 5 blocks of the cross-attention KV cache; the engine has 4; shorten the source"),
    ],
)
def test_requests_that_could_never_run_are_rejected_with_the_numbers(sizes: Sizes, numbers: str) -> None:
    scheduler = scheduler_of(num_seqs=4, own=8, cross=4, source_batch_tokens=20)
    whole = f"{sizes[0]} sequences .* of {sizes[1]} target and {sizes[2]} source tokens {numbers}"
    with pytest.raises(RequestTooLargeError, match=whole) as caught:
        scheduler.check(make(sizes))
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)
    with pytest.raises(RequestTooLargeError):
        scheduler.add(make(sizes))
    assert scheduler.waiting == 0


def test_a_request_that_takes_all_there_is_runs() -> None:
    scheduler = scheduler_of(num_seqs=4, own=8, cross=5, source_batch_tokens=20, source_batch=1)
    everything = (4, 8, 20)
    scheduler.check(make(everything))
    first, second = added(scheduler, everything, SMALL)
    (running,) = scheduler.schedule(0)
    assert running is first and running.seq_ids == (0, 1, 2, 3)
    assert scheduler.self_cache.free == scheduler.cross_cache.free == 0
    assert scheduler.schedule(1) == []
    scheduler.finish(running)
    assert scheduled(scheduler, 1) == [second]


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, -1, 1)])
def test_an_empty_request_is_rejected(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 sequence, 1 target token and 1 source token"):
        make(numbers)


@pytest.mark.parametrize("name", ["num_seqs", "max_waiting", "source_batch_tokens", "source_batch"])
def test_invalid_scheduler_sizes_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"found .*{name}=0"):
        scheduler_of(**{name: 0})
    with pytest.raises(ValueError, match="max_batch_delay_steps=-1"):
        scheduler_of(max_batch_delay_steps=-1)


def test_a_full_queue_rejects_a_request_until_another_leaves() -> None:
    scheduler = scheduler_of(max_waiting=2)
    first, _ = added(scheduler, SMALL, SMALL)
    third = make(SMALL)
    assert scheduler.full
    with pytest.raises(QueueFullError, match="2 requests are queued; .* larger max_waiting"):
        scheduler.add(third)
    assert scheduler.cancel(first) == "waiting" and not scheduler.full
    scheduler.add(third)
    assert third.state == "waiting" and scheduler.full


def test_a_ticket_is_added_once_and_cancelled_only_after_that() -> None:
    scheduler = scheduler_of()
    (request,) = added(scheduler, SMALL)
    with pytest.raises(ValueError, match="added once; found one that is waiting"):
        scheduler.add(request)
    with pytest.raises(KeyError):
        scheduler.cancel(make(SMALL))
    assert scheduler.waiting == 1


def test_no_request_overtakes_a_first_one_that_does_not_fit() -> None:
    scheduler = scheduler_of(num_seqs=4)
    added(scheduler, (2, 4, 4))
    (running,) = scheduler.schedule(0)
    large, small = added(scheduler, (3, 4, 4), SMALL)
    assert scheduler.schedule(1) == []
    scheduler.finish(running)
    assert scheduled(scheduler, 1) == [large, small]


def test_without_a_delay_a_request_starts_immediately() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=0)
    for step in range(3):
        (request,) = added(scheduler, SMALL)
        assert scheduled(scheduler, step) == [request]


def test_while_others_run_a_request_is_delayed_for_more_to_join() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=5)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    first = added(scheduler, SMALL)
    assert scheduler.schedule(10) == []
    second = added(scheduler, SMALL)
    assert scheduler.schedule(14) == []
    assert scheduled(scheduler, 15) == [*first, *second]
    third = added(scheduler, SMALL)
    assert scheduler.schedule(15) == scheduler.schedule(19) == []
    assert scheduled(scheduler, 20) == third


def test_the_delay_counts_from_when_a_request_could_run_and_not_from_when_it_came() -> None:
    scheduler = scheduler_of(num_seqs=4, max_batch_delay_steps=5)
    added(scheduler, (2, 4, 4), (2, 4, 4))
    _, short = scheduler.schedule(0)
    late = added(scheduler, SMALL)
    assert scheduler.schedule(1) == []
    scheduler.finish(short)
    assert scheduler.schedule(40) == scheduler.schedule(44) == []
    assert scheduled(scheduler, 45) == late


def test_a_request_held_back_is_not_held_back_anew_when_the_one_before_it_leaves() -> None:
    scheduler = scheduler_of(max_batch_delay_steps=5)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    first, second = added(scheduler, SMALL, SMALL)
    assert scheduler.schedule(0) == []
    scheduler.cancel(first)
    assert scheduler.schedule(4) == []
    assert scheduled(scheduler, 5) == [second]


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"source_batch": 2}, 2),
        ({"source_batch_tokens": 8}, 2),
        ({"source_batch_tokens": 11}, 2),
        ({"num_seqs": 4}, 3),
        ({"own": 4}, 3),
        ({"cross": 4}, 3),
    ],
)
def test_a_complete_batch_is_not_delayed(limits: dict[str, int], count: int) -> None:
    scheduler = scheduler_of(max_batch_delay_steps=1000, **limits)
    added(scheduler, SMALL)
    assert len(scheduler.schedule(0)) == 1
    added(scheduler, *[SMALL] * (count - 1))
    assert scheduler.schedule(1) == []
    added(scheduler, SMALL, *[SMALL] * (limits.get("source_batch_tokens") == 11))
    assert len(scheduler.schedule(1)) == count


def test_a_budget_of_exactly_one_request_admits_one_at_a_time() -> None:
    scheduler = scheduler_of(source_batch_tokens=4, max_batch_delay_steps=1000)
    requests = added(scheduler, SMALL, SMALL, SMALL)
    assert [scheduled(scheduler) for _ in range(4)] == [[requests[0]], [requests[1]], [requests[2]], []]


def test_the_lowest_free_seq_ids_are_dealt_out() -> None:
    scheduler = scheduler_of(num_seqs=6)
    added(scheduler, SMALL, (2, 4, 4), SMALL)
    started = scheduler.schedule(0)
    assert [one.seq_ids for one in started] == [(0,), (1, 2), (3,)]
    for running in (started[1], started[0]):
        scheduler.finish(running)
    added(scheduler, (4, 4, 4))
    assert [one.seq_ids for one in scheduler.schedule(0)] == [(0, 1, 2, 4)]


def test_each_sequence_has_blocks_of_its_own_and_the_source_is_stored_once() -> None:
    scheduler = scheduler_of()
    added(scheduler, (3, 5, 9))
    (running,) = scheduler.schedule(0)
    assert [len(blocks) for blocks in running.held.self_blocks] == [2, 2, 2]
    assert len({block for blocks in running.held.self_blocks for block in blocks}) == 6
    assert len(running.held.cross_blocks) == 3


def test_a_cancelled_running_request_keeps_its_reservation_until_finish() -> None:
    scheduler = scheduler_of(num_seqs=1)
    first, second = added(scheduler, SMALL, SMALL)
    (running,) = scheduler.schedule(0)
    assert scheduler.cancel(first) == "running"
    assert first.state == "finished" and scheduler.running == scheduler.self_cache.used == 1
    assert scheduler.cancel(first) == "finished"
    assert scheduler.schedule(1) == []
    scheduler.finish(running)
    assert scheduler.running == scheduler.self_cache.used == scheduler.cross_cache.used == 0
    assert scheduler.cancel(first) == "finished"
    assert scheduled(scheduler, 1) == [second]


def test_finish_rejects_requests_of_another_scheduler() -> None:
    one, other = scheduler_of(), scheduler_of()
    added(one, SMALL)
    (running,) = one.schedule(0)
    with pytest.raises(
        ValueError, match="finished once, by the scheduler that started it; found one that is running"
    ):
        other.finish(running)
    with pytest.raises(ValueError, match="finished once"):
        one.finish(replace(running))
    assert other.self_cache.free == other.self_cache.capacity and one.running == 1


def test_deadlines_are_named_once_soonest_first_whether_waiting_or_running() -> None:
    scheduler = scheduler_of(source_batch=1)
    late, soon, never, ended = requests = [make(SMALL, when) for when in (7.0, 5.0, None, 1.0)]
    for request in requests:
        scheduler.add(request)
    assert scheduled(scheduler) == [late]
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
    requests = [make(SMALL, random.random()) for _ in range(400)]
    for request in requests:
        scheduler.add(request)
        scheduler.schedule(0)
        # The first few run to the end.
        if request.arrival > 4 and random.random() < 0.5:
            scheduler.cancel(random.choice(requests[4 : request.arrival + 1]))
    live = [request for request in requests if request.state != "finished"]
    assert {request.state for request in requests[:4]} == {"running"} and len(live) < 350
    assert scheduler.expired(1.0) == sorted(live, key=lambda one: one.future.deadline or 0.0)


def test_leaving_a_long_queue_takes_constant_time() -> None:
    count = 65_536
    scheduler = scheduler_of(max_waiting=count, source_batch_tokens=4)
    requests = added(scheduler, *[SMALL] * count)
    begin = time.process_time()
    for request in requests[count // 4 : 3 * count // 4]:
        assert scheduler.cancel(request) == "waiting"
    for request in (*requests[: count // 4], *requests[3 * count // 4 :]):
        (running,) = scheduler.schedule(0)
        assert running is request
        scheduler.finish(running)
    # About a second of CPU time; a linear search for each request would take minutes.
    assert time.process_time() - begin < 15
    assert scheduler.waiting == 0


def test_finished_requests_are_released_before_their_deadline() -> None:
    scheduler = scheduler_of()
    kept: weakref.WeakSet[Request] = weakref.WeakSet()
    for _ in range(2000):
        request = make(SMALL, 1e9)
        kept.add(request)
        scheduler.add(request)
        scheduler.cancel(request)
    gc.collect()
    assert len(kept) < 200
