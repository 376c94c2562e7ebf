"""Ten thousand random requests, most of them invalid: only these fail, and the engine keeps running."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import precast
from precast.graphs.errors import PrecastError
from precast.runtime.encoder.engine import Encoder
from precast.runtime.errors import (
    EmptyInputError,
    EngineClosedError,
    InputError,
    InputTooLongError,
    InputTypeError,
    OptionError,
    QueueFullError,
    TaskError,
    TokenIdError,
    TokenizationError,
)
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.replay import HostBuffers, Pending
from tests.support.artifacts import MAX_LENGTH, TASKS, VOCABULARY, TinyModels, tiny_artifact, tiny_checkpoint
from tests.support.scripted_steps import TIMEOUT, wait_until

VOCAB = len(VOCABULARY)
MAX_CHARACTERS = 500
PROBES = ["the cat sat.", "", [2, 5, 3], ("the cat", "sat")]
"""Valid requests whose outputs must be the same at the end as at the start."""

Draw = random.Random
CONTAINERS: tuple[Callable[[list[int]], Any], ...] = (list, tuple, np.array, torch.tensor)


@dataclass(frozen=True)
class Bad:
    """An invalid input and its error; ``untruncated`` ones are invalid only with truncate=False."""

    value: Any
    error: type[InputError]
    untruncated: bool = False


def good_input(draw: Draw) -> Any:
    """Sample a text, a pair or token ids that all artifacts here accept."""
    kind = draw.randrange(6)
    if kind == 0:
        return words(draw, draw.randint(0, 6))
    if kind == 1:
        return (words(draw, 2), words(draw, 3))
    if kind == 2:
        return draw.choice(["", " ", "\0", "a\0b", "🙂 é 東京", "\u202e", "\r\n\t", "[CLS] [MASK]"])
    ids = [draw.randrange(VOCAB) for _ in range(draw.randint(1, MAX_LENGTH))]
    return draw.choice(CONTAINERS)(ids)


def words(draw: Draw, count: int) -> str:
    return " ".join(draw.choice(["the", "cat", "sat", ".", "a", "b"]) for _ in range(count))


def bad_input(draw: Draw) -> Bad:
    return draw.choice(BAD)(draw)


def of_wrong_type(draw: Draw) -> Bad:
    values: tuple[Any, ...] = (
        None, 1.5, float("nan"), True, 1j, b"the cat", bytearray(b"a"), {"text": "a"}, {"a"}, frozenset(),
        object(), str, len, ..., range(3), iter("ab"), Exception("x"), memoryview(b"ab"), np.float32(1),
        np.datetime64("2020-01-01"), slice(2), ("a",), ("a", "b", "c"), ("a", 1), ("a", None), (b"a", b"b"),
        [None], [1.5], [True, False], ["a", 1], [[1, 2]], [["a", "b"]], [[], []], [{}], [1, None], [1, "2"],
    )  # fmt: skip
    return Bad(draw.choice(values), InputTypeError)


def of_wrong_array(draw: Draw) -> Bad:
    values: tuple[Any, ...] = (
        np.array(1), np.array([[1, 2]]), np.array([1.0]), np.array([np.nan]), np.array([np.inf, 1]),
        np.array([True]), np.array(["a"]), np.array([None]), np.array([1j]), np.zeros((1, 1, 1), dtype=int),
        np.array(["2020-01-01"], dtype="datetime64[D]"), torch.tensor(1), torch.tensor([[1]]),
        torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([True]),
        torch.tensor([float("nan")]), torch.tensor([1, 2]).to_sparse(), torch.zeros(1, device="meta"),
    )  # fmt: skip
    return Bad(draw.choice(values), InputTypeError)


def of_wrong_ids(draw: Draw) -> Bad:
    """Sample token ids, one of which is outside the vocabulary."""
    wrong = draw.choice(
        [-1, -2, VOCAB, VOCAB + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -(2**31), -(2**63)]
    )
    ids = [draw.randrange(VOCAB) for _ in range(draw.randint(0, 40))]
    ids.insert(draw.randint(0, len(ids)), wrong)
    return Bad(draw.choice(CONTAINERS)(ids), TokenIdError)


def beyond_64_bits(draw: Draw) -> Bad:
    wrong = draw.choice([2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 1 << 20_000])
    ids: list[Any] = [1, 2, wrong]
    draw.shuffle(ids)
    value: Any = np.array([2**64 - 1], dtype=np.uint64) if draw.random() < 0.2 else ids
    return Bad(value, TokenIdError)


def without_ids(draw: Draw) -> Bad:
    value = draw.choice(
        [[], (), np.array([]), np.array([], dtype=np.int64), torch.tensor([], dtype=torch.int32)]
    )
    return Bad(value, EmptyInputError)


def over_long(draw: Draw) -> Bad:
    if draw.random() < 0.5:
        return Bad(
            [draw.randrange(VOCAB) for _ in range(draw.randint(MAX_LENGTH + 1, 99))], InputTooLongError, True
        )
    text = words(draw, draw.randint(MAX_LENGTH - 1, 60))
    return Bad(text, InputTooLongError, True)


def beyond_all_characters(draw: Draw) -> Bad:
    text = "a " * MAX_CHARACTERS
    return Bad(text if draw.random() < 0.5 else ("a", text), InputTooLongError)


def no_unicode(draw: Draw) -> Bad:
    text = draw.choice(["\ud800", "\udfff", "a\ud83d", "\udc00\ud800 the cat", "the \udcff"])
    return Bad(text if draw.random() < 0.7 else ("the", text), TokenizationError)


BAD: tuple[Callable[[Draw], Bad], ...] = (
    of_wrong_type, of_wrong_array, of_wrong_ids, of_wrong_ids, beyond_64_bits, without_ids, over_long,
    beyond_all_characters, no_unicode,
)  # fmt: skip


def numbers(output: EncoderOutput) -> np.ndarray:
    (found,) = [a for a in (output.embedding, output.logits, output.hidden) if a is not None]
    return found


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert equality up to rounding: the order of sums in a matrix product depends on its rows."""
    limit = 4e-6 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


class Session:
    """An engine with random requests; outputs of single valid inputs are cached for comparison."""

    def __init__(self, engine: Encoder, draw: Draw) -> None:
        self.engine = engine
        self.draw = draw
        self.alone: dict[str, np.ndarray] = {}
        self.requests = 0
        self.start = [numbers(engine.encode(warmup)) for warmup in PROBES]

    def fire(self, requests: int, *, alone: bool = True) -> None:
        """Send random requests. With ``alone`` there are no other callers, so batches repeat exactly."""
        shapes = (self.one_bad, self.one_bad, self.many, self.many, self.raised, self.submitted)
        while self.requests < requests:
            self.draw.choice(shapes)()
        for warmup, before in zip(PROBES, self.start, strict=True):
            after = numbers(self.engine.encode(warmup))
            np.testing.assert_array_equal(after, before) if alone else assert_same(after, before)

    def one_bad(self) -> None:
        """Send a single invalid input, in a list if it would be parsed as several."""
        bad = bad_input(self.draw)
        self.requests += 1
        with pytest.raises(PrecastError) as raised:
            self.engine.encode([bad.value], truncate=not bad.untruncated)
        self.check(raised.value, bad, 0)

    def many(self) -> None:
        """Send valid and invalid inputs in one call: valid ones get the outputs of single inputs."""
        items = [
            bad_input(self.draw) if self.draw.random() < 0.4 else good_input(self.draw) for _ in range(6)
        ]
        truncate = not any(isinstance(item, Bad) and item.untruncated for item in items)
        self.requests += len(items)
        values = [item.value if isinstance(item, Bad) else item for item in items]
        outputs = self.engine.encode(values, truncate=truncate, return_exceptions=True)
        assert len(outputs) == len(items)
        for place, (item, output) in enumerate(zip(items, outputs, strict=True)):
            if isinstance(item, Bad):
                self.check(output, item, place)
            else:
                assert isinstance(output, EncoderOutput), f"{item!r} gives {output!r}"
                assert_same(numbers(output), self.output_alone(item))

    def raised(self) -> None:
        """Without return_exceptions the error names the first invalid input."""
        bad, before = bad_input(self.draw), self.draw.randrange(4)
        values = (
            [good_input(self.draw) for _ in range(before)] + [bad.value] + [None] * self.draw.randrange(2)
        )
        self.requests += len(values)
        with pytest.raises(PrecastError) as raised:
            self.engine.encode(values, truncate=not bad.untruncated)
        self.check(raised.value, bad, before)

    def submitted(self) -> None:
        bad = bad_input(self.draw)
        self.requests += 1
        with pytest.raises(PrecastError) as raised:
            self.engine.submit(bad.value, truncate=not bad.untruncated)
        self.check(raised.value, bad, None)

    def check(self, error: Any, bad: Bad, index: int | None) -> None:
        assert type(error) is bad.error, f"{bad.value!r:.200} gives {error!r}"
        assert error.index == index
        assert str(error).startswith(f"input {index}: ") == (index is not None)
        assert 10 < len(str(error)) < 500, str(error)

    def output_alone(self, item: Any) -> np.ndarray:
        key = repr(item)
        if key not in self.alone:
            self.alone[key] = numbers(self.engine.encode([item])[0])
        return self.alone[key]


@pytest.fixture(scope="module")
def engines(tiny: TinyModels) -> Iterator[dict[str, Encoder]]:
    """Yield an engine for each task."""
    made = {task: precast.Encoder.load(tiny[task].artifact, max_characters=MAX_CHARACTERS) for task in TASKS}
    yield {str(task): engine for task, engine in made.items()}
    for engine in made.values():
        engine.close()


def test_ten_thousand_requests(engines: dict[str, Encoder]) -> None:
    session = Session(engines["hidden"], random.Random(1))
    session.fire(10_000)
    assert engines["hidden"].stats().failed == 0, "a bad request reached the graph"


def test_hundreds_of_requests_to_a_compiled_graph(compiled: Path) -> None:
    """Compiled graphs do not check inputs: a wrong id could crash the process."""
    with precast.Encoder.load(compiled, max_characters=MAX_CHARACTERS) as engine:
        Session(engine, random.Random(2)).fire(600)
        assert engine.stats().failed == 0


def test_many_threads(engines: dict[str, Encoder]) -> None:
    """Results of overlapping calls do not mix."""
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            Session(engines["embed"], random.Random(seed)).fire(200, alone=False)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, True, b"a", {"a": 1}, {"a"}, ..., str, np.array(1)], ids=repr
)
@pytest.mark.parametrize("method", ["encode", "embed"])
def test_inputs_of_unsupported_types(method: str, value: Any, engines: dict[str, Encoder]) -> None:
    with pytest.raises(InputTypeError) as raised:
        getattr(engines["embed"], method)(value)
    assert raised.value.index is None


PAIR = ("the cat", "sat")

OPTIONS: list[tuple[str, str, tuple[Any, ...], dict[str, list[Any]]]] = [
    ("embed", "encode", ("a",), {
        "truncate": [None, 1, 0, "middle", "", [], {}, np.array(["left"]), b"left", float("nan")],
        "prompt_name": ["query", "", 1, True, [], {}, ("a",), b"x"],
        "prompt": [1, True, b"x", [], {}, ["a"]],
    }),
    ("embed", "embed", ("a",), {
        "truncate_dim": [0, -1, 17, 10**30, 1.0, "8", True, False, [], np.array([4]), float("nan")],
        "truncate": [None, "both"],
        "prompt_name": ["query"],
    }),
    ("classify", "classify", ("a",), {
        "top_k": [0, -1, 1.0, "1", True, False, [], [1], float("nan"), b"1"],
        "function_to_apply": ["tanh", "", 1, True, [], {}, ("softmax",), np.array(["softmax"])],
        "truncate": ["middle"],
    }),
    ("classify", "predict", ([PAIR],), {"truncate": ["middle", 2]}),
    ("rerank", "rank", ("a", ["b", "c"]), {"top_k": [0, -1, 1.5, "1", True, []], "truncate": ["middle"]}),
    ("hidden", "submit", ("a",), {"truncate": [None, "middle", 1, []], "prompt": [1, b"x", []]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "method", "arguments", "option", "value"),
    [
        (task, method, arguments, option, value)
        for task, method, arguments, options in OPTIONS
        for option, values in options.items()
        for value in values
    ],
)
def test_wrong_option(
    task: str, method: str, arguments: tuple[Any, ...], option: str, value: Any, engines: dict[str, Encoder]
) -> None:
    before = engines[task].stats()
    with pytest.raises(OptionError, match=option):
        getattr(engines[task], method)(*arguments, **{option: value})
    assert engines[task].stats() == before, "it was computed first"


def test_options_of_loading(tiny: TinyModels) -> None:
    for name in ("num_threads", "batch_tokens", "max_waiting", "max_characters", "cuda_graph_max_tokens"):
        wrong: list[Any] = [0, -1, 1.5, "1", True, [], float("nan")]
        for value in wrong:
            with pytest.raises(OptionError, match=name):
                precast.Encoder.load(tiny["hidden"].artifact, **{name: value})
    devices: list[Any] = ["gpu", "cuda:", "cuda:-1", "cuda:1 ", "CUDA", "cpu:0", 0, True, [], b"cpu"]
    for value in devices:
        with pytest.raises(OptionError, match="device must be"):
            precast.Encoder.load(tiny["hidden"].artifact, device=value)
    for device in ("cuda", "cuda:0", "cuda:1"):
        with pytest.raises(OptionError, match="built for cpu, device is 'cuda"):
            precast.Encoder.load(tiny["hidden"].artifact, device=device)
    precast.Encoder.load(tiny["hidden"].artifact, device="cpu").close()
    with pytest.raises(OptionError, match="num_threads must be at most"):
        precast.Encoder.load(tiny["hidden"].artifact, num_threads=10**9)


def test_methods_of_other_tasks(engines: dict[str, Encoder]) -> None:
    calls: dict[str, tuple[tuple[Any, ...], Sequence[str]]] = {
        "embed": (("a",), ("classify", "rerank", "token-classify", "hidden")),
        "classify": (("a",), ("embed", "token-classify", "hidden")),
        "predict": (([PAIR],), ("embed", "token-classify", "hidden")),
        "rank": (("a", ["b"]), ("embed", "classify", "token-classify", "hidden")),
    }
    for method, (arguments, tasks) in calls.items():
        for task in tasks:
            with pytest.raises(TaskError, match="needs"):
                getattr(engines[task], method)(*arguments)
    with pytest.raises(TaskError, match="similarity"):
        engines["hidden"].similarity(np.ones((1, 4)), np.ones((1, 4)))


def test_pairs_where_they_are_not_accepted(engines: dict[str, Encoder]) -> None:
    found = engines["embed"].embed([PAIR, "the cat", ["a", "b"]], return_exceptions=True)
    assert [type(output) for output in found] == [InputTypeError, np.ndarray, InputTypeError]
    assert [found[0].index, found[2].index] == [0, 2]
    assert_same(found[1], engines["embed"].embed("the cat"))


def test_invalid_pairs_among_valid_ones(engines: dict[str, Encoder]) -> None:
    """Errors keep the position of their input, and other inputs get their scores."""
    values = [PAIR, "the cat", [1, 2], ("a", None), ["a", "b"], None]
    for task in ("classify", "rerank"):
        found = engines[task].predict(values, return_exceptions=True)
        for place in (1, 2, 3, 5):
            assert type(found[place]) is InputTypeError and found[place].index == place
        assert_same(found[0], engines[task].predict([PAIR])[0])
        assert_same(found[4], engines[task].predict([("a", "b")])[0])
        with pytest.raises(InputTypeError, match="input 1: expected a pair"):
            engines[task].predict(values)
        assert type(engines[task].predict("the cat", return_exceptions=True)) is InputTypeError


@pytest.mark.parametrize("query", [None, 1, b"a", ["a"], ("a", "b")], ids=repr)
def test_rank_takes_a_text_as_query(query: Any, engines: dict[str, Encoder]) -> None:
    with pytest.raises(InputTypeError, match="query"):
        engines["rerank"].rank(query, ["a"])


@pytest.mark.parametrize("documents", [None, 1, "a", b"ab", {"a": 1}, {"a"}, str, np.array(1)], ids=repr)
def test_rank_takes_a_list_of_documents(documents: Any, engines: dict[str, Encoder]) -> None:
    with pytest.raises(InputTypeError, match="list of texts as documents"):
        engines["rerank"].rank("a", documents)


def test_rank_names_the_document(engines: dict[str, Encoder]) -> None:
    values: list[Any] = [None, 1, b"b", ["b"], ("b", "c")]
    for wrong in values:
        with pytest.raises(InputTypeError, match="input 2: .*document"):
            engines["rerank"].rank("a", ["b", "c", wrong])
    assert engines["rerank"].rank("a", []) == []


def test_without_a_tokenizer_every_text_has_an_error_of_its_own(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("hidden", tmp_path / "checkpoint", tokenizer=False)
    with precast.Encoder.load(tiny_artifact(checkpoint, tmp_path / "artifact")) as engine:
        found = engine.encode(["a", [1, 2], "b", ("c", "d")], return_exceptions=True)
        assert [type(found[place]) for place in (0, 2, 3)] == [TokenizationError] * 3
        assert [found[place].index for place in (0, 2, 3)] == [0, 2, 3]
        assert_same(found[1].hidden, engine.encode([1, 2]).hidden)


def test_awaited_requests_fail_alike(engines: dict[str, Encoder]) -> None:
    async def ask() -> None:
        engine = engines["hidden"].aio()
        with pytest.raises(TokenIdError, match="input 1: token id 61"):
            await engine.encode(["a", [VOCAB]])
        with pytest.raises(OptionError):
            await engine.encode("a", truncate="middle")
        good, bad = await engine.encode(["a", b"b"], return_exceptions=True)
        assert type(bad) is InputTypeError and bad.index == 1
        np.testing.assert_array_equal(good.hidden, engines["hidden"].encode("a").hidden)

    asyncio.run(ask())


class Gate:
    """Blocks an engine's thread inside a batch until it is opened."""

    def __init__(self, engine: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        replay = engine._core._replay
        launch = replay.launch

        def held(buffers: HostBuffers) -> Pending:
            self.entered.set()
            assert self.opened.wait(TIMEOUT)
            return launch(buffers)

        monkeypatch.setattr(replay, "launch", held)


def test_a_full_queue(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    with precast.Encoder.load(tiny["hidden"].artifact, max_waiting=2) as engine:
        gate = Gate(engine, monkeypatch)
        running = engine.submit([1])
        assert gate.entered.wait(TIMEOUT)
        waiting = [engine.submit([2]), engine.submit([3])]
        with pytest.raises(QueueFullError, match="2 requests are queued.*max_waiting"):
            engine.submit([4])
        with pytest.raises(TokenIdError):
            engine.submit([VOCAB])  # an invalid request raises its own error first
        assert engine.stats().waiting == 2
        gate.opened.set()
        for future in (running, *waiting):
            assert future.result(TIMEOUT).hidden is not None
        assert len(engine.encode([[1]] * 9)) == 9  # a list waits for room
        assert engine.submit([4]).result(TIMEOUT).hidden is not None


def test_cancelled_requests(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    with precast.Encoder.load(tiny["hidden"].artifact) as engine:
        expected = engine.encode([3]).hidden
        gate = Gate(engine, monkeypatch)
        running = engine.submit([1])
        assert gate.entered.wait(TIMEOUT)
        gone, kept = engine.submit([2]), engine.submit([3])
        assert gone.cancel() and not running.cancel()
        gate.opened.set()
        with pytest.raises(CancelledError):
            gone.result(TIMEOUT)
        assert running.result(TIMEOUT).hidden is not None
        assert_same(numbers(kept.result(TIMEOUT)), expected)


def test_closing_fails_waiting_requests(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = precast.Encoder.load(tiny["hidden"].artifact)
    gate = Gate(engine, monkeypatch)
    running = engine.submit([1])
    assert gate.entered.wait(TIMEOUT)
    waiting, gone = engine.submit([2]), engine.submit([3])
    gone.cancel()
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: engine._core._closed)
    gate.opened.set()
    closing.join(TIMEOUT)
    assert running.result(TIMEOUT).hidden is not None
    with pytest.raises(EngineClosedError, match="before the request finished"):
        waiting.result(TIMEOUT)
    with pytest.raises(CancelledError):
        gone.result(TIMEOUT)


def test_a_closed_engine(tiny: TinyModels) -> None:
    engine = precast.Encoder.load(tiny["rerank"].artifact)
    engine.rank("a", ["b"])
    engine.close()
    engine.close()
    calls: list[Callable[[], Any]] = [
        lambda: engine.encode("a"),
        lambda: engine.encode(["a", "b"], return_exceptions=True),
        lambda: engine.classify("a"),
        lambda: engine.predict([PAIR]),
        lambda: engine.rank("a", ["b"]),
        lambda: engine.submit("a"),
        lambda: asyncio.run(engine.aio().encode("a")),
    ]
    for call in calls:
        with pytest.raises(EngineClosedError, match="load the artifact again"):
            call()
    assert engine.stats().waiting == 0
    with engine:
        pass


def test_a_failing_batch_does_not_affect_others(tiny: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's thread survives any error of a graph."""
    with precast.Encoder.load(tiny["hidden"].artifact) as engine:
        expected = engine.encode([3]).hidden
        with monkeypatch.context() as patch:
            patch.setattr(engine._core._replay, "launch", lambda buffers: 1 / 0)
            found = engine.encode([[1], [VOCAB], "a"], return_exceptions=True)
            assert all(isinstance(output, PrecastError) for output in found)
            assert "division by zero" in str(found[0]) and type(found[1]) is TokenIdError
        np.testing.assert_array_equal(engine.encode([3]).hidden, expected)
        assert engine.stats().failed == 2
