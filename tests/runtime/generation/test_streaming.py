"""Text as it grows: in a loop, in asyncio, dropped half way, ended by an error."""

from __future__ import annotations

import asyncio
import gc
import time
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
from tests.support.scripted_steps import wait_until

TEXTS = ("the cat sat", "l'été où être naïve", "字漢 🙂 漢", "dogs weren't barking at night !")
WORD = 3 + 256 + 20
"""A piece of the tokenizer that is no byte."""
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


def slow(_: object, scores: Tensor) -> Tensor:
    """A processor that gives the test time, and text with every token."""
    time.sleep(0.01)
    scores[:, WORD] = 1e6
    return scores


@given(
    source=st.sampled_from(TEXTS) | st.lists(st.integers(3, 300), min_size=1, max_size=20),
    sampled=st.none() | st.integers(0, 1000),
    length=st.integers(2, TARGET),
)
@settings(max_examples=40, deadline=None)
def test_pieces_joined_are_the_text_of_the_answer(
    made: Generating, engine: Seq2Seq, source: Any, sampled: int | None, length: int
) -> None:
    options: dict[str, Any] = {"max_length": length}
    if sampled is not None:
        options |= {"do_sample": True, "seed": sampled, "top_k": 0}
    stream = engine.stream(source, **options)
    pieces = list(stream)
    answer = stream.result(timeout=0)
    assert "".join(pieces) == answer.text == made.text(answer.token_ids.tolist())
    assert all(pieces), "an empty piece says nothing"
    assert answer.token_ids.tolist() == engine.generate(source, **options).token_ids.tolist()
    for piece in pieces[:-1]:
        assert not piece.endswith("\N{REPLACEMENT CHARACTER}"), "the rest of it may still have come"


def test_a_character_of_several_tokens_comes_whole(made: Generating, engine: Seq2Seq) -> None:
    """Each of the bytes of what is forced is a token of its own."""
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
    answer = stream.result(timeout=0)
    assert "".join(pieces) == answer.text
    assert pieces[0].startswith(made.text(made.tokenizer("dogs sat", add_special_tokens=False).input_ids))


@pytest.mark.parametrize("how", ["dropped", "closed", "with"])
def test_one_who_stops_listening_cancels(how: str, engine: Seq2Seq) -> None:
    before = engine.stats().cancelled
    stream = engine.stream("the cat", logits_processor=[slow], **ENDLESS)
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
    wait_until(lambda: engine.stats().cancelled == before + 1)
    wait_until_empty(engine)


def test_errors_come_out_of_the_loop(made: Generating, engine: Seq2Seq) -> None:
    def fail(*_: object) -> object:
        raise ValueError("mine")

    stream = engine.stream("the cat", logits_processor=[fail])
    with pytest.raises(ProcessorError, match="mine"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    late = engine.stream("the cat", timeout=0.05, logits_processor=[slow], **ENDLESS)
    with pytest.raises(RequestTimeoutError):
        list(late)
    with pytest.raises(RequestTimeoutError):
        late.result(timeout=0)
    other = precast.Seq2Seq.load(made.artifact)
    open_one = other.stream("the cat", logits_processor=[slow], **ENDLESS)
    next(open_one)
    other.close()
    with pytest.raises(EngineClosedError):
        list(open_one)


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}], ids=["beams", "several"]
)
def test_what_does_not_grow_cannot_be_streamed(options: dict[str, Any], engine: Seq2Seq) -> None:
    with pytest.raises(OptionError, match="a stream needs num_beams=1"):
        engine.stream("the cat", **options)


def test_asyncio_gives_what_the_calls_give(engine: Seq2Seq) -> None:
    async def work() -> None:
        other = engine.aio()
        answers, single, encoded, pieces = await asyncio.gather(
            other.generate(list(TEXTS), max_length=12),
            other.generate(TEXTS[0], num_beams=3, max_length=12),
            other.encode(list(TEXTS)),
            _joined(other.stream(TEXTS[1], max_length=12)),
        )
        expected = engine.generate(list(TEXTS), max_length=12)
        assert [one.text for one in answers] == [one.text for one in expected]
        assert single.text == engine.generate(TEXTS[0], num_beams=3, max_length=12).text
        assert [one.hidden.shape for one in encoded] == [
            one.hidden.shape for one in engine.encode(list(TEXTS))
        ]
        assert pieces == expected[1].text
        mixed = await other.generate(["the", None], max_length=5, return_exceptions=True)
        assert mixed[0].text is not None and isinstance(mixed[1], precast.runtime.errors.InputTypeError)

    asyncio.run(work())


@pytest.mark.parametrize("method", ["generate", "stream"])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.1])
def test_a_cancelled_task_cancels_its_request(method: str, after: float, engine: Seq2Seq) -> None:
    """Also one that is cancelled while its request is being made."""

    async def work() -> None:
        options: dict[str, Any] = {"logits_processor": [slow], **ENDLESS}
        other = engine.aio()
        calls = _joined(other.stream("the cat", **options)) if method == "stream" else other.generate(
            ["the cat"] * 3, **options
        )  # fmt: skip
        task = asyncio.create_task(calls)
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = engine.stats()
    asyncio.run(work())
    wait_until_empty(engine)
    assert engine.stats().requests == before.requests, "it was answered though nobody waited"


async def _joined(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])
