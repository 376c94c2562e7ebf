"""Streamed text: in a loop, in asyncio, cancelled half-way, and ended by an error."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import precast
from precast.runtime.errors import EngineClosedError, OptionError, ProcessorError, RequestTimeoutError
from precast.runtime.generation.engine import Seq2Seq
from tests.support.generating import TARGET, Generating, t5
from tests.support.scripted_steps import TIMEOUT, wait_until

TEXTS = ("the cat sat", "l'été où être naïve", "字漢 🙂 漢", "dogs weren't barking at night !")
WORD = 3 + 256 + 20
"""A piece of the tokenizer that is not a byte."""
ENDLESS: dict[str, Any] = {"eos_token_id": [], "max_length": TARGET}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generating:
    return t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def engine(made: Generating) -> Iterator[Seq2Seq]:
    with precast.Seq2Seq.load(made.artifact) as loaded:
        yield loaded


def wait_until_empty(engine: Seq2Seq) -> None:
    wait_until(lambda: not engine.stats().running and not engine.stats().waiting)
    stats = engine.stats()
    assert (stats.num_seqs_used, stats.self_blocks_used, stats.cross_blocks_used) == (0, 0, 0)


class Paced:
    """A logits processor that generates a word with each token, and pauses after the first ``free`` tokens.

    It continues when ``open`` is set, so that the request does not finish before the test has acted on it.
    """

    def __init__(self, free: int = 2) -> None:
        self.calls, self.free = 0, free
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, _: object, scores: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.free:
            self.reached.set()
            assert self.open.wait(TIMEOUT), "the test never let the processor continue"
        scores[:, WORD] = 1e6
        return scores


@given(
    source=st.sampled_from(TEXTS) | st.lists(st.integers(3, 300), min_size=1, max_size=20),
    sampled=st.none() | st.integers(0, 1000),
    length=st.integers(2, TARGET),
)
@settings(max_examples=40, deadline=None)
def test_joined_pieces_equal_the_text_of_the_output(
    made: Generating, engine: Seq2Seq, source: Any, sampled: int | None, length: int
) -> None:
    options: dict[str, Any] = {"max_length": length}
    if sampled is not None:
        options |= {"do_sample": True, "seed": sampled, "top_k": 0}
    stream = engine.stream(source, **options)
    pieces = list(stream)
    output = stream.result(timeout=0)
    assert "".join(pieces) == output.text == made.text(output.token_ids.tolist())
    assert all(pieces), "a piece is empty"
    assert output.token_ids.tolist() == engine.generate(source, **options).token_ids.tolist()
    for piece in pieces[:-1]:
        assert not piece.endswith("\N{REPLACEMENT CHARACTER}"), "a piece ends inside a character"


def test_a_piece_never_ends_inside_a_character(made: Generating, engine: Seq2Seq) -> None:
    """The processor forces characters whose bytes are one token each."""
    byte = {value: made.tokenizer.convert_tokens_to_ids(f"<0x{value:02X}>") for value in "🙂é".encode()}
    wanted = [
        *(byte[value] for value in "🙂é".encode()),
        WORD,
        *(byte[value] for value in "é🙂".encode()),
        WORD,
    ]

    def force(input_ids: Tensor, scores: Tensor) -> Tensor:
        done = input_ids.shape[1] - 1
        scores[:, wanted[done] if done < len(wanted) else 1] = 1e6
        return scores

    stream = engine.stream("the", max_length=TARGET, logits_processor=[force])
    pieces, word = list(stream), made.text([byte["🙂".encode()[0]], WORD])[1:]
    assert pieces == ["🙂é", word, "é🙂", word] or pieces == ["🙂é" + word, "é🙂" + word]
    assert stream.result(timeout=0).finish_reason == "stop"


def test_the_text_of_a_prefix_comes_first(made: Generating, engine: Seq2Seq) -> None:
    stream = engine.stream("the cat", target_prefix="dogs sat", max_length=TARGET)
    pieces = list(stream)
    assert "".join(pieces) == stream.result(timeout=0).text
    assert pieces[0].startswith(made.text(made.tokenizer("dogs sat", add_special_tokens=False).input_ids))


@pytest.mark.parametrize("how", ["collected", "closed", "with"])
def test_leaving_a_stream_early_cancels_its_request(how: str, engine: Seq2Seq) -> None:
    before, paced = engine.stats().cancelled, Paced(TARGET // 2)
    stream = engine.stream("the cat", logits_processor=[paced], **ENDLESS)
    next(stream)
    if how == "closed":
        stream.close()
        assert list(stream) == []
    elif how == "with":
        with stream:
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
    else:
        del stream
        gc.collect()
    paced.open.set()
    wait_until(lambda: engine.stats().cancelled == before + 1)
    wait_until_empty(engine)


def test_a_stream_raises_the_error_of_its_request(made: Generating, engine: Seq2Seq) -> None:
    def fail(*_: object) -> object:
        raise ValueError("mine")

    stream = engine.stream("the cat", logits_processor=[fail])
    with pytest.raises(ProcessorError, match="mine"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    paced = Paced()
    late = engine.stream("the cat", timeout=0.05, logits_processor=[paced], **ENDLESS)
    with pytest.raises(RequestTimeoutError):
        list(late)
    with pytest.raises(RequestTimeoutError):
        late.result(timeout=0)
    paced.open.set()


def test_closing_the_engine_ends_its_streams(made: Generating) -> None:
    engine, paced = precast.Seq2Seq.load(made.artifact), Paced(TARGET // 2)
    stream = engine.stream("the cat", logits_processor=[paced], **ENDLESS)
    next(stream)
    assert paced.reached.wait(TIMEOUT)
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: engine._core._closed)
    paced.open.set()
    closing.join(TIMEOUT)
    with pytest.raises(EngineClosedError):
        list(stream)


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}], ids=["beams", "several"]
)
def test_beams_and_several_sequences_cannot_be_streamed(options: dict[str, Any], engine: Seq2Seq) -> None:
    with pytest.raises(OptionError, match="a stream needs num_beams=1"):
        engine.stream("the cat", **options)


def test_async_methods_return_what_the_blocking_ones_do(engine: Seq2Seq) -> None:
    async def work() -> None:
        other = engine.aio()
        outputs, single, encoded, pieces = await asyncio.gather(
            other.generate(list(TEXTS), max_length=12),
            other.generate(TEXTS[0], num_beams=3, max_length=12),
            other.encode(list(TEXTS)),
            _joined(other.stream(TEXTS[1], max_length=12)),
        )
        expected = engine.generate(list(TEXTS), max_length=12)
        assert [output.text for output in outputs] == [output.text for output in expected]
        assert single.text == engine.generate(TEXTS[0], num_beams=3, max_length=12).text
        assert [output.hidden.shape for output in encoded] == [
            output.hidden.shape for output in engine.encode(list(TEXTS))
        ]
        assert pieces == expected[1].text
        mixed = await other.generate(["the", None], max_length=5, return_exceptions=True)
        assert mixed[0].text is not None and isinstance(mixed[1], precast.runtime.errors.InputTypeError)

    asyncio.run(work())


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize("after", [0.0, 0.001, None])
def test_a_cancelled_task_cancels_its_request(method: str, after: float | None, engine: Seq2Seq) -> None:
    """Cancel while the request is prepared, or (None) while it is running."""
    paced = Paced()

    async def work() -> None:
        options: dict[str, Any] = {"logits_processor": [paced], **ENDLESS}
        other = engine.aio()
        calls = _joined(other.stream("the cat", **options)) if method == "stream" else other.generate(
            ["the cat"] * 3, **options
        )  # fmt: skip
        task = asyncio.create_task(calls)
        if after is None:
            await asyncio.to_thread(paced.reached.wait, TIMEOUT)
        else:
            await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = engine.stats()
    asyncio.run(work())
    paced.open.set()
    wait_until_empty(engine)
    assert engine.stats().requests == before.requests, "a cancelled request finished"


async def _joined(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])
