"""The core of an encoder with several launches in flight: every request gets its own output or an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.graphs.encode import Task, encode_output
from precast.runtime.cuda.replay import InFlight
from precast.runtime.cuda.streams import Slot
from precast.runtime.encoder.core import EncoderCore, EncodeRequest
from precast.runtime.errors import DeviceFailedError, EngineClosedError, GraphError, InferenceError
from precast.runtime.futures import ResultFuture
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import HostBuffers
from tests.support.artifacts import TASKS
from tests.support.fake_device import FakeDevice
from tests.support.fake_encoder import LIMITS, SIZE, expected, fake_replay, random_tokens

TIMEOUT = 20
"""Seconds. Nothing here takes long; what hangs shall fail."""
SETTINGS = settings(max_examples=100, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.lists(st.integers(1, LIMITS.max_length), min_size=1, max_size=25)
PROBE = Tokens(np.array([1, 2], np.int32), None)


@dataclass(frozen=True, eq=False)
class Asked(EncodeRequest):
    """A request and the future that takes its output."""

    promise: ResultFuture[EncoderOutput] = field(default_factory=ResultFuture)


class Gate:
    """Holds the worker where it starts to wait for the device, from ``shut`` until ``opened`` is set."""

    def __init__(self) -> None:
        self.shut = False
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        if self.shut:
            self.entered.set()
            assert self.opened.wait(TIMEOUT)


def start(
    device: FakeDevice, task: Task = "embed", *, batch_tokens: int = 40, upto: int = 1000
) -> EncoderCore:
    replay = fake_replay(device, task, batch_tokens=batch_tokens, upto=upto)
    output = encode_output(task, SIZE)
    return EncoderCore(replay, output, LIMITS, batch_tokens=batch_tokens, max_waiting=1000, warmup=PROBE)


def occupied() -> tuple[Gate, FakeDevice, EncoderCore, list[Asked]]:
    """A worker that waits for the device with three batches of its own, until the gate is opened."""
    gate = Gate()
    device = FakeDevice(2, on_synchronize=gate)
    worker = start(device, batch_tokens=20)
    gate.shut = True
    running = requests_of([20, 20, 20])
    worker.add(running)
    assert gate.entered.wait(TIMEOUT)
    return gate, device, worker, running


def requests_of(lengths: Sequence[int], seed: int = 0) -> list[Asked]:
    random = np.random.default_rng(seed)
    return [Asked(random_tokens(random, length)) for length in lengths]


def assert_answered(requests: Sequence[Asked], task: Task = "embed") -> None:
    output = encode_output(task, SIZE)
    for request in requests:
        result = request.promise.result(TIMEOUT)
        assert isinstance(result, EncoderOutput)
        np.testing.assert_array_equal(getattr(result, output.name), expected(request.tokens, output))


def closed_in_time(worker: EncoderCore) -> None:
    closing = threading.Thread(target=worker.close, daemon=True)
    closing.start()
    closing.join(TIMEOUT)
    assert not closing.is_alive(), "close hangs"


@SETTINGS
@given(
    bursts=st.lists(LENGTHS, min_size=1, max_size=4),
    seed=SEEDS,
    task=st.sampled_from(TASKS),
    upto=st.sampled_from([1, 12, 1000]),
    batch_tokens=st.integers(1, 90),
)
def test_every_request_gets_its_own_answer(
    bursts: list[list[int]], seed: int, task: Task, upto: int, batch_tokens: int
) -> None:
    device = FakeDevice(seed)
    worker = start(device, task, batch_tokens=batch_tokens, upto=upto)
    sent: list[Asked] = []
    for place, lengths in enumerate(bursts):
        burst = requests_of(lengths, seed + place)
        worker.add(burst)
        if seed % 2:
            assert_answered(burst, task)
        sent += burst
    assert_answered(sent, task)
    closed_in_time(worker)
    stats = worker.stats()
    assert (stats.requests, stats.failed, stats.waiting) == (len(sent), 0, 0)
    assert stats.tokens == sum(len(request.tokens) for request in sent)
    assert device.violations == []
    assert device.live_blocks() == 0, "closing keeps memory"


def test_a_second_batch_is_launched_before_the_first_result_is_taken() -> None:
    device = FakeDevice(1)
    worker = start(device, batch_tokens=20)
    log: list[str] = []
    replay = worker._replay
    launch = replay.launch

    def logged(buffers: HostBuffers) -> InFlight:
        log.append("launch")
        pending = launch(buffers)
        assert isinstance(pending, InFlight)

        def wait(slot: Slot) -> None:
            log.append("result")
            pending.wait(slot)

        return InFlight(pending.outputs, pending.slot, wait)

    replay.launch = logged  # type: ignore[method-assign]
    requests = requests_of([20] * 5)
    worker.add(requests)
    assert_answered(requests)
    closed_in_time(worker)
    assert log == ["launch", *["launch", "result"] * 4, "result"]


def test_stats_tell_of_captures() -> None:
    worker = start(FakeDevice(), upto=8)
    stats = worker.stats()
    assert [capture.bucket for capture in stats.captures] == [8, 4]
    assert stats.graph_bytes == sum(capture.bytes for capture in stats.captures) > 0
    assert stats.capture_seconds == sum(capture.seconds for capture in stats.captures)
    closed_in_time(worker)


def test_closing_answers_what_is_in_flight_and_fails_what_waits() -> None:
    gate, device, worker, running = occupied()
    waiting = requests_of([5, 6])
    worker.add(waiting)
    closing = threading.Thread(target=worker.close, daemon=True)
    closing.start()
    gate.opened.set()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert_answered(running)
    for request in waiting:
        with pytest.raises(EngineClosedError, match="before the request finished"):
            request.promise.result(TIMEOUT)
    with pytest.raises(EngineClosedError):
        worker.offer(requests_of([1])[0])
    assert device.violations == []


def test_cancelling_while_others_are_in_flight() -> None:
    gate, device, worker, running = occupied()
    gone, kept = requests_of([5, 6])
    worker.add([gone, kept])
    assert gone.promise.cancel()
    assert not any(request.promise.cancel() for request in running)
    gate.opened.set()
    assert_answered([*running, kept])
    with pytest.raises(CancelledError):
        gone.promise.result(TIMEOUT)
    closed_in_time(worker)
    assert device.violations == []


def test_a_batch_that_fails_on_the_host_fails_alone() -> None:
    device = FakeDevice(2)
    worker = start(device, batch_tokens=20)
    replay = worker._replay
    buffers_for: Callable[..., HostBuffers] = replay.buffers_for
    asked: list[int] = []

    def second_fails(needed: dict[str, int]) -> HostBuffers:
        asked.append(1)
        if len(asked) == 2:
            raise ValueError("made up")
        return buffers_for(needed)

    replay.buffers_for = second_fails  # type: ignore[assignment,method-assign]
    requests = requests_of([20] * 4)
    worker.add(requests)
    bad = requests.pop(1)
    with pytest.raises(GraphError, match="a batch failed: made up"):
        bad.promise.result(TIMEOUT)
    assert_answered(requests)
    assert worker.stats().failed == 1
    closed_in_time(worker)
    assert device.violations == []


def attempt(device: FakeDevice) -> str:
    """Load, serve two bursts, close. Gives how far it came without a failure."""
    try:
        worker = start(device, batch_tokens=20, upto=8)
    except DeviceFailedError:
        return "loading"
    bursts = [requests_of([20, 18, 20, 3, 3, 12], 1), requests_of([7, 20], 2)]
    refused = 0
    for burst in bursts:
        try:
            worker.add(burst)
        except DeviceFailedError:
            refused += 1
            burst.clear()
        wait_for([request.promise for request in burst], TIMEOUT)
    sent = [request for burst in bursts for request in burst]
    errors = [request.promise.exception(0) for request in sent]
    failed = [error for error in errors if isinstance(error, DeviceFailedError)]
    assert_answered([request for request, error in zip(sent, errors, strict=True) if error not in failed])
    stats = worker.stats()
    assert (stats.failed, stats.requests, stats.waiting) == (len(failed), len(sent) - len(failed), 0)
    if failed or refused:
        assert_dead(worker)
    closed_in_time(worker)
    return "serving" if failed or refused else "closing"


def assert_dead(worker: EncoderCore) -> None:
    late = requests_of([1])
    for submit in (lambda: worker.add(late), lambda: worker.offer(late[0])):
        with pytest.raises(DeviceFailedError, match="made-up failure. This engine has failed") as raised:
            submit()
        assert isinstance(raised.value, InferenceError) and not isinstance(raised.value, GraphError)


@pytest.mark.parametrize("kind", ["fail_call", "fail_work"])
def test_a_failure_anywhere_reaches_everybody(kind: str) -> None:
    clean = FakeDevice(5)
    assert attempt(clean) == "closing" and clean.violations == []
    total = len(clean.calls) if kind == "fail_call" else len(clean.done)
    found = [attempt(FakeDevice(5, **{kind: at})) for at in range(total)]  # type: ignore[arg-type]
    assert {"loading", "serving"} <= set(found)
    assert found.count("closing") <= 4


def test_a_failure_fails_what_is_in_flight_and_what_waits() -> None:
    gate, device, worker, running = occupied()
    waiting, gone = requests_of([5, 6])
    worker.add([waiting, gone])
    assert gone.promise.cancel()
    device.fail_next()
    gate.opened.set()
    answered = 0
    for request in (*running, waiting):
        error = request.promise.exception(TIMEOUT)
        assert error is None or isinstance(error, DeviceFailedError)
        answered += error is None
    assert answered <= 1, "the one whose end the host was waiting for"
    assert isinstance(waiting.promise.exception(TIMEOUT), DeviceFailedError)
    assert_dead(worker)
    closed_in_time(worker)
    closed_in_time(worker)
    assert_dead(worker)


def test_a_sender_that_waits_for_room_is_woken_by_a_failure() -> None:
    gate = Gate()
    device = FakeDevice(2, on_synchronize=gate)
    worker = start(device, batch_tokens=20)
    worker._max_waiting = 2
    gate.shut = True
    worker.add(requests_of([20, 20]))
    assert gate.entered.wait(TIMEOUT)
    met: list[Exception] = []

    def send() -> None:
        try:
            worker.add(requests_of([5] * 6))
        except InferenceError as error:
            met.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    device.fail_next()
    gate.opened.set()
    sender.join(TIMEOUT)
    assert not sender.is_alive() and isinstance(met[0], DeviceFailedError)
    closed_in_time(worker)
