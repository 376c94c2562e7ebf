"""Captured replay on a simulated asynchronous device: right outputs, and no missing synchronization."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.graphs.encode import SEQUENCES, TOKENS, Task, encode_output
from precast.runtime.cuda.replay import CapturedReplay
from precast.runtime.encoder.packing import fill
from precast.runtime.errors import DeviceFailedError
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import Pending
from tests.support.artifacts import TASKS
from tests.support.fake_device import FakeDevice
from tests.support.fake_encoder import BUCKETS, LIMITS, SIZE, expected, fake_replay, random_tokens, rows_of

SETTINGS = settings(max_examples=150, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
BATCHES = st.lists(
    st.lists(st.integers(1, LIMITS.max_length), min_size=1, max_size=LIMITS.max_batch).filter(
        lambda lengths: sum(lengths) <= LIMITS.max_tokens
    ),
    min_size=1,
    max_size=10,
)


def serve(replay: CapturedReplay, batches: Sequence[Sequence[Tokens]], task: Task) -> None:
    """Keep two launches in flight, and compare every output with the expected one."""
    output = encode_output(task, SIZE)
    in_flight: deque[tuple[Sequence[Tokens], Pending]] = deque()

    def finish() -> None:
        batch, pending = in_flight.popleft()
        for tokens, row in zip(batch, rows_of(batch, pending.result(), output), strict=True):
            np.testing.assert_array_equal(row, expected(tokens, output))

    for batch in batches:
        in_flight.append((batch, replay.launch(fill(replay, batch))))
        if len(in_flight) == replay.depth:
            finish()
    while in_flight:
        finish()


def random_batches(batches: Sequence[Sequence[int]], seed: int) -> list[list[Tokens]]:
    random = np.random.default_rng(seed)
    return [[random_tokens(random, length) for length in lengths] for lengths in batches]


@SETTINGS
@given(batches=BATCHES, seed=SEEDS, task=st.sampled_from(TASKS), upto=st.sampled_from([1, 8, 1000]))
def test_every_input_gets_its_own_output(batches: list[list[int]], seed: int, task: Task, upto: int) -> None:
    device = FakeDevice(seed)
    replay = fake_replay(device, task, upto=upto)
    replay.prepare()
    serve(replay, random_batches(batches, seed), task)
    replay.close()
    assert device.violations == []
    assert device.live_blocks() == 0, "closing keeps memory"


@SETTINGS
@given(batches=BATCHES, seed=SEEDS, launches=st.integers(0, 2))
def test_closing_with_work_in_flight(batches: list[list[int]], seed: int, launches: int) -> None:
    device = FakeDevice(seed)
    replay = fake_replay(device)
    replay.prepare()
    pending = [replay.launch(fill(replay, batch)) for batch in random_batches(batches, seed)[:launches]]
    replay.close()
    for launch in pending:
        with pytest.raises(RuntimeError, match="closed"):
            launch.result()
    replay.close()
    assert device.violations == []


def test_the_next_batch_travels_while_one_is_computed() -> None:
    """In some order of the device's work both are in flight; the host never waits in between."""
    batches = random_batches([[9, 3], [5]], 0)
    seen = False
    for seed in range(50):
        device = FakeDevice(seed)
        replay = fake_replay(device)
        replay.prepare()
        calls, done = len(device.calls), len(device.done)
        pending = [replay.launch(fill(replay, batch)) for batch in batches]
        assert not any("synchronize" in call for call in device.calls[calls:])
        for launch in pending:
            launch.result()
        order = device.done[done:]
        second_upload = [at for at, name in enumerate(order) if name == "copy host to device"][1]
        seen |= second_upload < order.index("replay")
        replay.close()
    assert seen


def test_a_slot_is_not_used_before_its_result_is_taken() -> None:
    replay = fake_replay(FakeDevice())
    replay.prepare()
    first, second, third = random_batches([[3], [4], [5]], 0)
    oldest = replay.launch(fill(replay, first))
    replay.launch(fill(replay, second))
    with pytest.raises(RuntimeError, match="2 launches are in flight"):
        fill(replay, third)
    oldest.result()
    replay.launch(fill(replay, third)).result()


def test_only_the_buffers_handed_out_last_are_launched() -> None:
    replay = fake_replay(FakeDevice())
    replay.prepare()
    (batch,) = random_batches([[3, 4]], 0)
    stale, fresh = fill(replay, batch), fill(replay, batch)
    with pytest.raises(RuntimeError, match="buffers_for returned last"):
        replay.launch(stale)
    pending = replay.launch(fresh)
    with pytest.raises(RuntimeError, match="buffers_for"):
        replay.launch(fresh)
    pending.result()
    with pytest.raises(ValueError, match="set up for 90 tokens, a batch needs 91"):
        replay.buffers_for({TOKENS: 91, SEQUENCES: 1})


@pytest.mark.parametrize(
    ("batch_tokens", "upto", "buckets"),
    [
        (90, 1000, [32, 16, 12, 8, 4]),
        (90, 12, [12, 8, 4]),
        (90, 1, []),
        (20, 1000, [32, 16, 12, 8, 4]),
        (11, 1000, [32, 16, 12, 8, 4]),
    ],
)
def test_buckets_that_can_be_met_are_captured_largest_first(
    batch_tokens: int, upto: int, buckets: list[int]
) -> None:
    device = FakeDevice()
    replay = fake_replay(device, batch_tokens=batch_tokens, upto=upto)
    replay.prepare()
    assert [capture.bucket for capture in replay.captures] == buckets
    assert all(capture.bytes > 0 and capture.seconds >= 0 for capture in replay.captures)
    assert device.calls.count("capture") == len(buckets)
    (batch,) = random_batches([[3]], 0)
    replay.launch(fill(replay, batch)).result()
    replay.launch(fill(replay, batch)).result()
    assert sorted({capture.bucket for capture in replay.captures}) == sorted({*buckets, 4})
    assert len(replay.captures) == len({*buckets, 4}), "a bucket is captured once"


def test_batches_above_the_top_bucket_are_not_captured() -> None:
    device = FakeDevice()
    replay = fake_replay(device, upto=1)
    replay.prepare()
    (batch,) = random_batches([[20, 20]], 0)
    buffers = fill(replay, batch)
    assert buffers.sizes == {TOKENS: 40, SEQUENCES: 2}
    replay.launch(buffers).result()
    assert replay.captures == () and "replay" not in device.calls


@pytest.mark.parametrize("tokens", range(1, BUCKETS[-1] + 1))
def test_a_bucket_has_room_for_as_many_inputs_as_tokens(tokens: int) -> None:
    replay = fake_replay(FakeDevice(), upto=1)
    replay.prepare()
    sizes = replay.buffers_for({TOKENS: tokens, SEQUENCES: 1}).sizes
    bucket = min(size for size in BUCKETS if size >= tokens)
    assert sizes == {TOKENS: bucket, SEQUENCES: min(bucket, LIMITS.max_batch)}


def calls_and_work() -> tuple[int, int]:
    device = FakeDevice(3)
    scenario(device)
    assert device.violations == []
    return len(device.calls), len(device.done)


def scenario(device: FakeDevice) -> None:
    """Run every operation of a replay: early and late captures, replays, direct calls and closing."""
    replay = fake_replay(device, upto=8)
    try:
        replay.prepare()
        serve(replay, random_batches([[3], [9, 3], [20, 20, 5], [1], [12]], 3), "embed")
    finally:
        replay.close()
        replay.close()


@pytest.mark.parametrize("kind", ["fail_call", "fail_work"])
def test_a_failure_anywhere_is_a_device_failure(kind: str) -> None:
    calls, work = calls_and_work()
    total = calls if kind == "fail_call" else work
    assert total > 50
    harmless = 0
    for at in range(total):
        device = FakeDevice(3, **{kind: at})  # type: ignore[arg-type]
        try:
            scenario(device)
            harmless += 1
        except DeviceFailedError as error:
            message = str(error)
            assert ": CUDA error: a made-up failure. This engine has failed" in message
            assert "new process" in message
            assert "more lines" not in message
    # Closing synchronizes and trims twice; a failure there comes after all outputs.
    assert harmless <= 4


def test_after_a_failure_every_call_meets_it() -> None:
    device = FakeDevice(3)
    replay = fake_replay(device)
    replay.prepare()
    first, second = random_batches([[3], [4]], 0)
    pending = replay.launch(fill(replay, first))
    device.fail_next()
    with pytest.raises(DeviceFailedError) as failed:
        replay.launch(fill(replay, second))
    for ask in (pending.result, lambda: fill(replay, second)):
        with pytest.raises(DeviceFailedError) as again:
            ask()
        assert again.value is failed.value
    replay.close()
