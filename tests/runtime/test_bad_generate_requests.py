"""Two thousand random calls of ``Seq2Seq``, most of them invalid: only these fail, with typed errors."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import precast
from precast.graphs.errors import PrecastError
from precast.runtime.errors import (
    EmptyInputError,
    InferenceError,
    InputError,
    InputTooLongError,
    InputTypeError,
    OptionError,
    ProcessorError,
    TokenIdError,
    TokenizationError,
)
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from tests.support.generating import NUM_SEQS, SOURCE, TARGET, Generating, t5

Draw = random.Random
Probe = tuple[Any, dict[str, Any]]
MAX_CHARACTERS = 500
PROBES: list[Probe] = [
    ("the cat sat", {}),
    ([5, 9, 300], {"num_beams": 3, "max_length": 9}),
    ("été", {"do_sample": True, "seed": 3, "num_return_sequences": 2, "max_length": 8}),
]
"""Valid requests whose outputs must be the same at the end as at the start."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generating:
    return t5(tmp_path_factory.mktemp("t5"), max_length=10)


@pytest.fixture(scope="module")
def engine(made: Generating) -> Iterator[Seq2Seq]:
    with precast.Seq2Seq.load(made.artifact, max_characters=MAX_CHARACTERS) as loaded:
        yield loaded


@dataclass(frozen=True)
class Bad:
    """A call and the type of its error."""

    error: type[InferenceError]
    value: Any = "the cat"
    options: dict[str, Any] = field(default_factory=dict)


def of_wrong_type(draw: Draw, vocab: int) -> Bad:
    values: tuple[Any, ...] = (
        None, 1.5, float("nan"), True, b"the cat", {"text": "a"}, {"a"}, object(), str, len, ..., ("a", "b"),
        ("a",), [None], [1.5], [True], ["a", 1], [[1, 2]], [{}], np.array(1), np.array([[1, 2]]),
        np.array([1.0]), np.array(["a"]), torch.tensor([[1]]), torch.tensor([True]), torch.tensor(1),
        torch.zeros(1, device="meta"),
    )  # fmt: skip
    return Bad(InputTypeError, draw.choice(values))


def of_wrong_ids(draw: Draw, vocab: int) -> Bad:
    ids = [draw.randrange(vocab) for _ in range(draw.randint(0, 40))]
    ids.insert(draw.randint(0, len(ids)), draw.choice([-1, vocab, 2**31, -(2**31), 2**63 - 1]))
    containers: list[Callable[[list[int]], Any]] = [list, tuple, np.array, torch.tensor]
    return Bad(TokenIdError, draw.choice(containers)(ids))


def without_ids(draw: Draw, vocab: int) -> Bad:
    return Bad(EmptyInputError, draw.choice([[], (), np.array([], int), torch.tensor([], dtype=torch.int32)]))


def beyond_all_lengths(draw: Draw, vocab: int) -> Bad:
    if draw.random() < 0.5:
        return Bad(InputTooLongError, "a " * MAX_CHARACTERS)
    return Bad(InputTooLongError, [5] * draw.randint(SOURCE + 1, 200), {"truncate": False})


def no_unicode(draw: Draw, vocab: int) -> Bad:
    return Bad(TokenizationError, draw.choice(["\ud800", "a\ud83d", "the \udcff"]))


ODD: tuple[Any, ...] = (
    -1, 0, 1.5, "3", "", [], {}, (), object(), float("nan"), float("inf"), -float("inf"), 10**400, -(10**30),
    True, b"x", [[]], [None], {"a": 1}, np.array([1, 2]), np.array(["a"]), [2**63], [[1, -2]], 1e-60, str,
)  # fmt: skip
NAMES = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences",
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "eos_token_id", "decoder_start_token_id", "early_stopping", "renormalize_logits",
    "seed", "truncate", "src_lang", "tgt_lang", "decoder_input_ids", "target_prefix", "logits_processor",
)  # fmt: skip


def of_wrong_options(draw: Draw, vocab: int) -> Bad:
    choices: tuple[tuple[dict[str, Any], type[InferenceError]], ...] = (
        ({"num_beams": draw.choice([0, -1, 1.5, "2", True, 10**30, NUM_SEQS + 1])}, OptionError),
        ({"max_length": draw.choice([0, 1, -3, 2.0, "9", TARGET + 1, 10**400])}, OptionError),
        ({"max_new_tokens": draw.choice([0, -1, TARGET, 10**30])}, OptionError),
        (
            {
                "do_sample": True,
                "temperature": draw.choice([0, -1.0, float("nan"), float("inf"), "1", 10**400]),
            },
            OptionError,
        ),
        ({"do_sample": True, "top_p": draw.choice([-0.1, float("nan"), "1"])}, OptionError),
        ({"do_sample": True, "seed": draw.choice([-1, 2**63, 1.5, "1"])}, OptionError),
        ({"do_sample": True, "num_beams": 2}, OptionError),
        ({"num_return_sequences": draw.choice([2, 0, 10**30, NUM_SEQS + 1])}, OptionError),
        ({"eos_token_id": draw.choice([-1, vocab, [vocab], "1", list(range(90))])}, OptionError),
        ({"bad_words_ids": draw.choice([[[vocab]], [[-1]], 5, [5], "ab"])}, OptionError),
        ({"guidance_scale": 2.0}, OptionError),
        ({draw.choice(["max_lenght", "beams", "x" * 99, "input_id", "self_", "é"]): 1}, OptionError),
        ({"truncate": draw.choice([None, 1, 0, "middle", [], b"left"])}, OptionError),
        ({"src_lang": draw.choice(["en_XX", "", "\ud800"])}, OptionError),
        ({"tgt_lang": draw.choice(["en_XX", "", "\ud800"])}, OptionError),
        ({"logits_processor": draw.choice([5, [5], len, {"a": 1}, "ab"])}, OptionError),
        ({"decoder_input_ids": draw.choice([None, 1.5, {}, [None], [[1]]]) or 1.5}, InputTypeError),
        ({"decoder_input_ids": [draw.choice([-1, vocab, 2**31])]}, OptionError),
        ({"target_prefix": draw.choice(["\ud800", "a\udcff"])}, TokenizationError),
        ({"target_prefix": "a", "decoder_input_ids": [1]}, OptionError),
        ({"target_prefix": [5] * draw.randint(TARGET, 90)}, InputTooLongError),
        ({"logits_processor": [draw.choice([len, lambda ids, scores: 5, lambda: 1])]}, ProcessorError),
    )
    options, error = draw.choice(choices)
    return Bad(error, options=options)


BAD: tuple[Callable[[Draw, int], Bad], ...] = (
    of_wrong_type, of_wrong_ids, without_ids, beyond_all_lengths, no_unicode, of_wrong_options,
    of_wrong_options, of_wrong_options,
)  # fmt: skip


class Session:
    """An engine with random requests."""

    def __init__(self, engine: Seq2Seq, seed: int) -> None:
        self.engine, self.draw = engine, random.Random(seed)
        self.vocab = engine._builder._info.vocab_size
        self.calls = 0
        self.before = self.warmup()

    def fire(self, calls: int) -> None:
        while self.calls < calls:
            self.calls += 1
            self.draw.choice((self.bad, self.bad, self.odd, self.mixed))()
            if self.calls % 50 == 0:
                assert self.warmup() == self.before
        assert self.warmup() == self.before

    def warmup(self) -> list[list[list[int]]]:
        """Return the outputs of valid requests, made one after the other."""
        outputs = [self.engine.generate([value], **options)[0] for value, options in PROBES]
        return [[one.token_ids.tolist() for one in output.sequences] for output in outputs]

    def bad(self) -> None:
        bad = self.random_request()
        try:
            output = self.call(bad.value, bad.options)
        except PrecastError as error:
            self.check(error, bad)
        else:
            raise AssertionError(f"{bad!r:.300} gives {output!r}")

    def odd(self) -> None:
        """Any name with any value gives an output or a typed error."""
        names = self.draw.sample(NAMES, self.draw.randint(1, 3))
        options = {name: self.draw.choice(ODD) for name in names}
        try:
            output = self.call("the cat", options)
        except InferenceError as error:
            assert 10 < len(str(error)) < 2000, str(error)
        except Exception as error:
            raise AssertionError(f"{options!r:.300} gives {error!r}") from error
        else:
            assert isinstance(output, GenerateOutput | str)

    def mixed(self) -> None:
        """Invalid inputs do not affect valid ones of the same call."""
        bads = [make(self.draw, self.vocab) for make in self.draw.choices(BAD[:3], k=2)]
        values = [bads[0].value, PROBES[0][0], bads[1].value]
        found = self.engine.generate(values, return_exceptions=True)
        for place, bad in ((0, bads[0]), (2, bads[1])):
            self.check(found[place], bad)
            assert found[place].index == place
        assert [one.token_ids.tolist() for one in found[1].sequences] == self.before[0]

    def random_request(self) -> Bad:
        return self.draw.choice(BAD)(self.draw, self.vocab)

    def call(self, value: Any, options: dict[str, Any]) -> Any:
        way = self.draw.randrange(4)
        if way == 0:
            future: Future[GenerateOutput] = self.engine.submit(value, **options)
            return future.result(timeout=60)
        if way == 1:
            with self.engine.stream(value, **options) as pieces:
                return "".join(pieces)
        if way == 2:
            return self.engine.generate([value], parameters=[options])[0]
        return self.engine.generate([value], **options)[0]

    def check(self, error: Any, bad: Bad) -> None:
        assert type(error) is bad.error, f"{bad!r:.300} gives {error!r}"
        assert 10 < len(str(error)) < 2000, str(error)


def test_two_thousand_calls(engine: Seq2Seq) -> None:
    Session(engine, 1).fire(2000)
    stats = engine.stats()
    assert (stats.num_seqs_used, stats.self_blocks_used, stats.cross_blocks_used, stats.waiting) == (
        0,
        0,
        0,
        0,
    )


def test_many_threads(engine: Seq2Seq) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            Session(engine, seed).fire(100)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_bad_sources_to_encode(engine: Seq2Seq) -> None:
    draw, vocab = random.Random(9), engine._builder._info.vocab_size
    before = engine.encode("the cat").hidden
    for _ in range(300):
        bad = draw.choice(BAD[:5])(draw, vocab)
        with pytest.raises(InputError) as raised:
            engine.encode(["the cat", bad.value], truncate=bad.options.get("truncate", True))
        assert type(raised.value) is bad.error and raised.value.index == 1
    odds: list[Any] = [None, 1, "middle", []]
    for odd in odds:
        with pytest.raises(OptionError, match="truncate"):
            engine.encode("the cat", truncate=odd)
    with pytest.raises(OptionError, match="src_lang"):
        engine.encode("the cat", src_lang="en_XX")
    np.testing.assert_array_equal(engine.encode("the cat").hidden, before)


@pytest.mark.parametrize("value", [None, 1, 1.5, True, b"a", {"a": 1}, {"a"}, ..., str], ids=repr)
def test_inputs_of_unsupported_types(value: Any, engine: Seq2Seq) -> None:
    for call in (engine.generate, engine.encode):
        with pytest.raises(InputTypeError) as raised:
            call(value)
        assert raised.value.index is None


def test_parameters_that_are_no_list_of_options(engine: Seq2Seq) -> None:
    wrong: list[Any] = [5, [], [5], [None], "ab", {"a": 1}, [{}, {}], [["num_beams"]], object()]
    for parameters in wrong:
        with pytest.raises(OptionError, match="parameters"):
            engine.generate(["the cat"], parameters=parameters)


@pytest.mark.parametrize("timeout", ["1", [], {}, object(), float("nan"), True, -1, -0.5, 10**400])
def test_timeouts_that_are_no_number(timeout: Any, engine: Seq2Seq) -> None:
    for call in (engine.generate, engine.submit, engine.stream):
        with pytest.raises(OptionError, match="timeout"):
            call("the cat", timeout=timeout)


def test_options_of_loading(made: Generating) -> None:
    names = ("kv_cache_bytes", "batch_tokens", "max_batch_delay_steps", "steps_per_sync")
    wrong: list[Any] = [-1, 1.5, "1", True, [], float("nan")]
    for name in names:
        for value in wrong:
            with pytest.raises(OptionError, match=name):
                precast.Seq2Seq.load(made.artifact, **{name: value})
    for value in (0.0, 1.0, -0.5, 2, "1", float("nan")):
        with pytest.raises(OptionError, match="cross_kv_fraction"):
            precast.Seq2Seq.load(made.artifact, cross_kv_fraction=value)
    with pytest.raises(OptionError, match="needs .* bytes"):
        precast.Seq2Seq.load(made.artifact, kv_cache_bytes=100)
