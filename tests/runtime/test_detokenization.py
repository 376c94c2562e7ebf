"""Detokenization compared with Hugging Face's tokenizers, whole and token by token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from precast.artifacts.errors import TokenizerFileError
from precast.artifacts.tokenization import DecodingInfo
from precast.compiler.frontend.tokenizer import read_generation_tokenizer
from precast.runtime.io.detokenization import Detokenizer
from precast.runtime.io.text_steps import Replacement, Strip
from precast.runtime.io.tokens import Pieces, parse_pieces
from tests.support.generation_tokenizers import SNIPPETS, WRITERS, checkpoint

TEXTS = st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=3), max_size=9).map("".join)


class Both:
    """A tokenizer of Hugging Face, and our detokenizer of the same checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.theirs: Any = AutoTokenizer.from_pretrained(folder)
        facts = read_generation_tokenizer(checkpoint(folder))
        assert facts is not None and facts.decoding is not None
        info = facts.decoding
        pieces = None
        if info.pieces_file is not None and info.unknown_id is not None:
            pieces = parse_pieces(facts.extra_files[info.pieces_file], info.unknown_id)
        self.ours = Detokenizer(facts.serialized, info, pieces)
        languages = getattr(self.theirs, "lang_token_to_id", {})  # M2M100 stores them separately
        self.size = max([*self.theirs.get_vocab().values(), *languages.values()]) + 1

    def expected(self, ids: Sequence[int]) -> str:
        return str(self.theirs.decode(list(ids), skip_special_tokens=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    found = {}
    for name, write in WRITERS.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        found[name] = Both(folder)
    return found


@pytest.mark.parametrize("name", WRITERS)
@given(data=st.data())
def test_any_ids_become_the_text_of_hugging_face(
    made: dict[str, Both], name: str, data: st.DataObject
) -> None:
    both = made[name]
    ids = data.draw(st.lists(st.integers(0, both.size - 1), max_size=14))
    assert both.ours.decode(ids) == both.expected(ids)


@pytest.mark.filterwarnings("ignore:This sequence already has </s>")  # of Hugging Face's ByT5 tokenizer
@pytest.mark.parametrize("name", WRITERS)
@given(text=TEXTS)
def test_round_trips_decode_as_in_hugging_face(made: dict[str, Both], name: str, text: str) -> None:
    both = made[name]
    ids = both.theirs(text).input_ids
    assert both.ours.decode(ids) == both.expected(ids)


@pytest.mark.filterwarnings("ignore:This sequence already has </s>")  # of Hugging Face's ByT5 tokenizer
@pytest.mark.parametrize("name", WRITERS)
@given(data=st.data())
def test_streamed_text_never_changes(made: dict[str, Both], name: str, data: st.DataObject) -> None:
    both = made[name]
    known = both.theirs(data.draw(TEXTS)).input_ids
    ids = known + data.draw(st.lists(st.integers(0, both.size - 1), max_size=8))
    stream, given_so_far = both.ours.stream(), ""
    for place, token in enumerate(ids):
        given_so_far += stream.put(token)
        # The text may end here, or continue with any tokens.
        assert both.expected(ids[: place + 1]).startswith(given_so_far)
    assert given_so_far + stream.end() == both.expected(ids)


@pytest.mark.parametrize("name", ["t5", "bart", "nllb", "marian"])
def test_a_stream_keeps_up_with_its_tokens(made: dict[str, Both], name: str) -> None:
    """A word is returned when the next one begins, not only at the end of the text."""
    both = made[name]
    ids = both.theirs("the cat sat on a mat the dogs", add_special_tokens=False).input_ids
    stream, so_far = both.ours.stream(), ""
    for place, token in enumerate(ids):
        so_far += stream.put(token)
        assert both.expected(ids[: place + 1]).strip() == so_far.strip()


def test_an_emoji_comes_whole(made: dict[str, Both]) -> None:
    for name in ("bart", "byte-fallback", "byt5"):
        both = made[name]
        ids = both.theirs("🙂a🙂", add_special_tokens=False).input_ids
        stream = both.ours.stream()
        given_texts = [stream.put(token) for token in ids] + [stream.end()]
        assert "".join(given_texts).strip() == "🙂a🙂" and "\N{REPLACEMENT CHARACTER}" not in "".join(
            given_texts
        )
        assert sum("🙂" in text for text in given_texts) == 2


def test_an_incomplete_character_is_decoded_as_in_hugging_face(made: dict[str, Both]) -> None:
    for name in ("bart", "byte-fallback", "byt5"):
        both = made[name]
        ids = both.theirs("a🙂", add_special_tokens=False).input_ids[:-1]
        assert both.ours.decode(ids) == both.expected(ids)


def test_unknown_ids_have_no_text(made: dict[str, Both]) -> None:
    for both in made.values():
        assert both.ours.decode([both.size + 5000]) == ""


def test_many_threads_share_one_detokenizer(made: dict[str, Both]) -> None:
    both = made["bart"]
    ids = both.theirs("the cat 🙂 sat").input_ids
    expected = both.expected(ids)
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(text for text in (both.ours.decode(ids) for _ in range(200)) if text != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(parts=st.lists(st.text(" 'abn.", min_size=1, max_size=4), max_size=8),
       old=st.sampled_from([" .", " ' ", " n't", "aa", "aab"]))  # fmt: skip
def test_incremental_replacement_equals_str_replace(parts: list[str], old: str) -> None:
    step = Replacement(old, "-")
    assert "".join([*map(step.put, parts), step.end()]) == "".join(parts).replace(old, "-")


@given(parts=st.lists(st.text(" \n\u2003ab", min_size=1, max_size=4), max_size=8))
def test_stripping_in_parts_is_that_of_the_whole(parts: list[str]) -> None:
    step = Strip()
    assert "".join([*map(step.put, parts), step.end()]) == "".join(parts).strip()


_PLAIN = DecodingInfo(joins="plain", drops_prefix=False, strips=True, cleans_up=False, skipped_ids=(0,),
                      pieces_file="pieces.json", unknown_id=1)  # fmt: skip


def test_missing_pieces_are_an_error() -> None:
    with pytest.raises(TokenizerFileError, match=r"pieces\.json"):
        Detokenizer("{}", _PLAIN)
    with pytest.raises(TokenizerFileError, match="cannot be read"):
        Detokenizer("{}", _PLAIN.model_copy(update={"pieces_file": None, "unknown_id": None}))
    assert Detokenizer("{}", _PLAIN, Pieces({}, ("x", " a", None, "b "), 1)).decode([0, 1, 2, 3]) == "ab"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"ids": {}}', '{"ids": [], "texts": []}', '{"ids": {"a": "b"}, "texts": []}',
     '{"ids": {"a": -1}, "texts": []}', '{"ids": {"a": true}, "texts": []}', '{"ids": {}, "texts": [1]}',
     '{"ids": {}, "texts": {}}', '{"ids": {}, "texts": [], "more": 1}', "[" * 100_000],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_broken_pieces_are_an_error(text: str) -> None:
    with pytest.raises(TokenizerFileError):
        parse_pieces(text, 0)
