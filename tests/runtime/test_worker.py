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
from tests.support.scripted_steps import TIMEOUT, wait_until

SETTINGS = settings(max_examples=100, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.lists(st.integers(1, LIMITS.max_length), min_size=1, max_size=25)
WARMUP = Tokens(np.array([1, 2], np.int32), None)


@dataclass(frozen=True, eq=False)
class PendingRequest(EncodeRequest):
    """A request whose promise is a future."""

    promise: ResultFuture[EncoderOutput] = field(default_factory=ResultFuture)


class Gate:
    """Blocks the engine's thread in a wait for the device, while ``shut`` is set and ``opened`` is not."""

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
    return EncoderCore(replay, output, LIMITS, batch_tokens=batch_tokens, max_waiting=1000, warmup=WARMUP)


def busy_core() -> tuple[Gate, FakeDevice, EncoderCore, list[PendingRequest]]:
    """Return a core that is blocked with three batches until the gate is opened."""
    gate = Gate()
    device = FakeDevice(2, on_synchronize=gate)
    core = start(device, batch_tokens=20)
    gate.shut = True
    running = requests_of([20, 20, 20])
    core.add(running)
    assert gate.entered.wait(TIMEOUT)
    return gate, device, core, running


def requests_of(lengths: Sequence[int], seed: int = 0) -> list[PendingRequest]:
    random = np.random.default_rng(seed)
    return [PendingRequest(random_tokens(random, length)) for length in lengths]


def assert_outputs(requests: Sequence[PendingRequest], task: Task = "embed") -> None:
    output = encode_output(task, SIZE)
    for request in requests:
        result = request.promise.result(TIMEOUT)
        assert isinstance(result, EncoderOutput)
        np.testing.assert_array_equal(getattr(result, output.name), expected(request.tokens, output))


def close(core: EncoderCore) -> None:
    closing = threading.Thread(target=core.close, daemon=True)
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
def test_every_request_gets_its_own_output(
    bursts: list[list[int]], seed: int, task: Task, upto: int, batch_tokens: int
) -> None:
    device = FakeDevice(seed)
    core = start(device, task, batch_tokens=batch_tokens, upto=upto)
    sent: list[PendingRequest] = []
    for place, lengths in enumerate(bursts):
        burst = requests_of(lengths, seed + place)
        core.add(burst)
        if seed % 2:
            assert_outputs(burst, task)
        sent += burst
    assert_outputs(sent, task)
    close(core)
    stats = core.stats()
    assert (stats.requests, stats.failed, stats.waiting) == (len(sent), 0, 0)
    assert stats.tokens == sum(len(request.tokens) for request in sent)
    assert device.violations == []
    assert device.live_blocks() == 0, "closing keeps memory"


def test_a_second_batch_is_launched_before_the_first_result_is_taken() -> None:
    device = FakeDevice(1)
    core = start(device, batch_tokens=20)
    log: list[str] = []
    replay = core._replay
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
    core.add(requests)
    assert_outputs(requests)
    close(core)
    assert log == ["launch", *["launch", "result"] * 4, "result"]


def test_stats_list_captures() -> None:
    core = start(FakeDevice(), upto=8)
    stats = core.stats()
    assert [capture.bucket for capture in stats.captures] == [8, 4]
    assert stats.graph_bytes == sum(capture.bytes for capture in stats.captures) > 0
    assert stats.capture_seconds == sum(capture.seconds for capture in stats.captures)
    close(core)


def test_closing_finishes_batches_in_flight_and_fails_waiting_requests() -> None:
    gate, device, core, running = busy_core()
    waiting = requests_of([5, 6])
    core.add(waiting)
    closing = threading.Thread(target=core.close, daemon=True)
    closing.start()
    wait_until(lambda: core._closed)
    gate.opened.set()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert_outputs(running)
    for request in waiting:
        with pytest.raises(EngineClosedError, match="before the request finished"):
            request.promise.result(TIMEOUT)
    with pytest.raises(EngineClosedError):
        core.offer(requests_of([1])[0])
    assert device.violations == []


def test_cancelling_a_waiting_request() -> None:
    gate, device, core, running = busy_core()
    gone, kept = requests_of([5, 6])
    core.add([gone, kept])
    assert gone.promise.cancel()
    assert not any(request.promise.cancel() for request in running)
    gate.opened.set()
    assert_outputs([*running, kept])
    with pytest.raises(CancelledError):
        gone.promise.result(TIMEOUT)
    close(core)
    assert device.violations == []


def test_a_batch_that_fails_on_the_host_does_not_affect_others() -> None:
    device = FakeDevice(2)
    core = start(device, batch_tokens=20)
    replay = core._replay
    buffers_for: Callable[..., HostBuffers] = replay.buffers_for
    calls: list[int] = []

    def second_fails(needed: dict[str, int]) -> HostBuffers:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("made up")
        return buffers_for(needed)

    replay.buffers_for = second_fails  # type: ignore[assignment,method-assign]
    requests = requests_of([20] * 4)
    core.add(requests)
    bad = requests.pop(1)
    with pytest.raises(GraphError, match="a batch failed: made up"):
        bad.promise.result(TIMEOUT)
    assert_outputs(requests)
    assert core.stats().failed == 1
    close(core)
    assert device.violations == []


def attempt(device: FakeDevice) -> str:
    """Load, serve two bursts and close; return the phase in which the device failed."""
    try:
        core = start(device, batch_tokens=20, upto=8)
    except DeviceFailedError:
        return "loading"
    bursts = [requests_of([20, 18, 20, 3, 3, 12], 1), requests_of([7, 20], 2)]
    rejected = 0
    for burst in bursts:
        try:
            core.add(burst)
        except DeviceFailedError:
            rejected += 1
            burst.clear()
        wait_for([request.promise for request in burst], TIMEOUT)
    sent = [request for burst in bursts for request in burst]
    errors = [request.promise.exception(0) for request in sent]
    failed = [error for error in errors if isinstance(error, DeviceFailedError)]
    assert_outputs([request for request, error in zip(sent, errors, strict=True) if error not in failed])
    stats = core.stats()
    assert (stats.failed, stats.requests, stats.waiting) == (len(failed), len(sent) - len(failed), 0)
    if failed or rejected:
        assert_failed(core)
    close(core)
    return "serving" if failed or rejected else "closing"


def assert_failed(core: EncoderCore) -> None:
    late = requests_of([1])
    for submit in (lambda: core.add(late), lambda: core.offer(late[0])):
        with pytest.raises(DeviceFailedError, match="made-up failure. This engine has failed") as raised:
            submit()
        assert isinstance(raised.value, InferenceError) and not isinstance(raised.value, GraphError)


@pytest.mark.parametrize("kind", ["fail_call", "fail_work"])
def test_a_device_failure_anywhere_fails_all_requests(kind: str) -> None:
    clean = FakeDevice(5)
    assert attempt(clean) == "closing" and clean.violations == []
    total = len(clean.calls) if kind == "fail_call" else len(clean.done)
    phases = [attempt(FakeDevice(5, **{kind: at})) for at in range(total)]  # type: ignore[arg-type]
    assert {"loading", "serving"} <= set(phases)
    assert phases.count("closing") <= 4


def test_a_device_failure_fails_running_and_waiting_requests() -> None:
    gate, device, core, running = busy_core()
    waiting, gone = requests_of([5, 6])
    core.add([waiting, gone])
    assert gone.promise.cancel()
    device.fail_next()
    gate.opened.set()
    finished = 0
    for request in (*running, waiting):
        error = request.promise.exception(TIMEOUT)
        assert error is None or isinstance(error, DeviceFailedError)
        finished += error is None
    assert finished <= 1, "only the launch that the host was waiting for may finish"
    assert isinstance(waiting.promise.exception(TIMEOUT), DeviceFailedError)
    assert_failed(core)
    close(core)
    close(core)
    assert_failed(core)


def test_a_caller_that_waits_for_room_is_woken_by_a_failure() -> None:
    gate = Gate()
    device = FakeDevice(2, on_synchronize=gate)
    core = start(device, batch_tokens=20)
    core._max_waiting = 2
    gate.shut = True
    core.add(requests_of([20, 20]))
    assert gate.entered.wait(TIMEOUT)
    errors: list[Exception] = []

    def send() -> None:
        try:
            core.add(requests_of([5] * 6))
        except InferenceError as error:
            errors.append(error)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    device.fail_next()
    gate.opened.set()
    sender.join(TIMEOUT)
    assert not sender.is_alive() and isinstance(errors[0], DeviceFailedError)
    close(core)
