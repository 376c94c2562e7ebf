"""Both kinds of engines: forked, interrupted, garbage-collected, closed, or called by their own thread."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import precast
from precast.runtime.encoder.engine import Encoder
from precast.runtime.errors import (
    EngineClosedError,
    EngineForkedError,
    InferenceError,
    QueueFullError,
    ReentrantCallError,
    RequestTimeoutError,
)
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.replay import HostBuffers, Pending
from tests.support.artifacts import TinyModels
from tests.support.generating import TARGET, t5
from tests.support.scripted_steps import TIMEOUT, Gate, wait_until

ENDLESS: dict[str, Any] = {"eos_token_id": [], "max_length": TARGET}
AnyEngine = Encoder | Seq2Seq


@pytest.fixture(scope="module")
def artifacts(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"encoder": tiny["embed"].artifact, "seq2seq": t5(tmp_path_factory.mktemp("t5")).artifact}


@pytest.fixture(params=["encoder", "seq2seq"])
def engine(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[AnyEngine]:
    with precast.load(artifacts[request.param], max_waiting=4) as loaded:
        yield loaded


def call(engine: AnyEngine, *inputs: str, **options: Any) -> Any:
    """Make the blocking call of the engine's task."""
    if isinstance(engine, Encoder):
        return engine.embed(list(inputs), **options)
    return engine.generate(list(inputs), max_length=4, **options)


def hold(engine: AnyEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, Future[Any]]:
    """Pause the engine's thread inside its graphs; return the gate and the future of the running request."""
    gate = Gate()
    if isinstance(engine, Encoder):
        replay = engine._core._replay
        launch = replay.launch

        def held(buffers: HostBuffers) -> Pending:
            gate()
            return launch(buffers)

        monkeypatch.setattr(replay, "launch", held)
        future: Future[Any] = engine.submit("a")
    else:

        def processor(_: Tensor, scores: Tensor) -> Tensor:
            gate()
            return scores

        future = engine.submit(
            "the cat", num_return_sequences=8, do_sample=True, logits_processor=[processor]
        )
    assert gate.reached.wait(TIMEOUT)
    return gate, future


def in_thread(function: Callable[[], object]) -> Future[Any]:
    """Call a function in a new thread."""
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("kind", ["encoder", "seq2seq"])
def test_a_forked_engine_fails_immediately(kind: str, artifacts: dict[str, Path]) -> None:
    script = (
        "import os, sys, precast\n"
        "from precast.runtime.futures import ResultFuture\n"
        "engine = precast.load(sys.argv[1])\n"
        "call = getattr(engine, 'embed', None) or engine.generate\n"
        "pending = ResultFuture()\n"
        "call('a')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    asked = [lambda: call('a'), lambda: engine.submit('a'), engine.drain, pending.result]\n"
        "    for ask in asked:\n"
        "        try: ask()\n"
        "        except precast.EngineForkedError: pass\n"
        "        else: os._exit(1)\n"
        "    engine.close()\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "call('a')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(artifacts[kind])], check=True, timeout=TIMEOUT)


def test_an_interrupted_call_leaves_nothing_in_the_queue(
    engine: AnyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt during the wait for results cancels the queued requests."""
    gate, _ = hold(engine, monkeypatch)
    queued = threading.Event()
    waited = (
        "precast.runtime.batch_result.BatchResult.wait"
        if isinstance(engine, Encoder)
        else "precast.runtime.generation.engine.outcome_of"
    )

    def interrupted(*_: Any) -> None:
        queued.set()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(waited, interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(engine, "a", "b", "c")
    gate.open.set()
    wait_until(lambda: not engine.stats().waiting)
    assert engine.drain(TIMEOUT)
    assert queued.is_set() and engine.stats().requests == 1, "requests of the interrupted call were computed"
    assert engine.stats().cancelled == 3


def test_a_cancelled_task_leaves_nothing_in_the_queue(
    engine: AnyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, _ = hold(engine, monkeypatch)

    async def work() -> None:
        inputs = ["a"] * 9  # more than fit the queue
        aio: Any = engine.aio()
        task = asyncio.create_task(aio.embed(inputs) if isinstance(engine, Encoder) else aio.generate(inputs))
        while engine.stats().waiting < 4:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    gate.open.set()
    wait_until(lambda: not engine.stats().waiting)
    assert engine.drain(TIMEOUT) and engine.stats().requests == 1


def test_timeouts_are_enforced_while_the_engine_is_busy(
    engine: AnyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's thread is blocked, so that callers enforce the timeouts."""
    gate, _ = hold(engine, monkeypatch)
    for wait in (0.0, 0.01):
        with pytest.raises(RequestTimeoutError):
            call(engine, "a", timeout=wait)
    late = engine.submit("a", timeout=0.01)
    with pytest.raises(RequestTimeoutError, match="it was waiting"):
        late.result(TIMEOUT)
    outcomes = call(engine, *["a"] * 9, timeout=0.01, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RequestTimeoutError] * 9

    async def work() -> None:
        aio: Any = engine.aio()
        with pytest.raises(RequestTimeoutError):
            await (
                aio.embed("a", timeout=0.01)
                if isinstance(engine, Encoder)
                else aio.generate("a", timeout=0.01)
            )

    asyncio.run(work())
    gate.open.set()
    assert engine.drain(TIMEOUT) and engine.stats().requests == 1


def test_a_full_queue_raises(engine: AnyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, _ = hold(engine, monkeypatch)
    for _ in range(4):
        engine.submit("a")
    with pytest.raises(QueueFullError, match="4 requests are queued"):
        engine.submit("a")
    gate.open.set()
    assert engine.drain(TIMEOUT)


def test_a_callback_may_call_the_engine(engine: AnyEngine) -> None:
    called: Future[Any] = Future()

    def again(_: object) -> None:
        try:
            called.set_result(call(engine, "b", timeout=TIMEOUT))
        except BaseException as error:
            called.set_exception(error)

    engine.submit("a").add_done_callback(again)
    assert len(called.result(TIMEOUT)) == 1


def test_callbacks_hold_no_lock_of_the_engine(engine: AnyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback waits for a lock whose holder waits for the engine."""
    gate, running = hold(engine, monkeypatch)
    mine, called, over = threading.Lock(), threading.Event(), threading.Event()

    def callback(_: object) -> None:
        called.set()
        with mine:
            over.set()

    with mine:
        running.add_done_callback(callback)
        gate.open.set()
        assert called.wait(TIMEOUT)
        engine.submit("b").result(TIMEOUT)
    assert over.wait(TIMEOUT)


def test_a_blocking_call_in_the_engines_thread_raises(artifacts: dict[str, Path]) -> None:
    errors: list[type[Exception]] = []
    futures: list[Future[Any]] = []

    with Seq2Seq.load(artifacts["seq2seq"]) as engine:

        def processor(_: Tensor, scores: Tensor) -> Tensor:
            if not futures:
                futures.append(engine.submit("b", max_length=3))
                blocking: tuple[Callable[[], object], ...] = (
                    lambda: engine.generate("b"),
                    lambda: engine.encode("b"),
                    lambda: next(engine.stream("b")),
                    lambda: futures[0].result(),
                    engine.drain,
                )
                for call in blocking:
                    try:
                        call()
                    except ReentrantCallError as error:
                        errors.append(type(error))
            return scores

        assert (
            engine.generate("a", max_length=4, logits_processor=[processor], timeout=TIMEOUT).text is not None
        )
        assert errors == [ReentrantCallError] * 5
        assert futures[0].result(TIMEOUT).text is not None


@pytest.mark.parametrize("kind", ["encoder", "seq2seq"])
def test_a_garbage_collected_engine_finishes_its_requests(
    kind: str, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = precast.load(artifacts[kind])
    gate, running = hold(engine, monkeypatch)
    futures = [running, *(engine.submit("b") for _ in range(5))]
    thread, dropped = engine._core.thread, weakref.ref(engine)
    del engine
    gc.collect()
    assert dropped() is None
    gate.open.set()
    for future in futures:
        future.result(TIMEOUT)
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_draining(engine: AnyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.drain(TIMEOUT)
    gate, running = hold(engine, monkeypatch)
    assert not engine.drain(0.01)
    draining = in_thread(engine.drain)
    assert not draining.done()
    gate.open.set()
    assert draining.result(TIMEOUT) is True and running.done()
    engine.close()
    assert engine.drain()


@pytest.mark.parametrize("kind", ["encoder", "seq2seq"])
def test_the_interpreter_exits_with_requests_in_flight(kind: str, artifacts: dict[str, Path]) -> None:
    script = (
        "import sys, precast\n"
        "engine = precast.load(sys.argv[1])\n"
        "futures = [engine.submit('a') for _ in range(200)]\n"
        "print(engine)\n"
    )
    run = [sys.executable, "-c", script, str(artifacts[kind])]
    done = subprocess.run(run, check=True, timeout=TIMEOUT, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.startswith("Encoder(" if kind == "encoder" else "Seq2Seq(")


def test_a_failure_of_the_thread_fails_all_requests(
    engine: AnyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("made up")

    gate, running = hold(engine, monkeypatch)
    waiting = engine.submit("b")
    monkeypatch.setattr(engine._core, "_turn", broken)
    gate.open.set()
    for future in (running, waiting):
        error = future.exception(TIMEOUT)
        assert error is None or isinstance(error, precast.EngineFailedError)
    assert isinstance(waiting.exception(), precast.EngineFailedError)
    for ask in (lambda: call(engine, "a"), lambda: engine.submit("a")):
        with pytest.raises(precast.EngineFailedError, match="ZeroDivisionError: made up"):
            ask()
    engine.close()


def test_repr_and_pickling(engine: AnyEngine) -> None:
    shown = repr(engine)
    assert f"task={engine.manifest.model.task!r}" in shown and "device='cpu'" in shown
    with pytest.raises(TypeError, match="cannot be pickled .* send the path of the artifact"):
        pickle.dumps(engine)


def test_errors_derive_from_pythons_own() -> None:
    assert issubclass(RequestTimeoutError, TimeoutError) and issubclass(EngineForkedError, EngineClosedError)
    assert issubclass(ReentrantCallError, RuntimeError) and issubclass(RequestTimeoutError, InferenceError)
