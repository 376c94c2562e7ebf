"""``Seq2Seq`` on a compiled artifact, compared with Hugging Face."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList

import precast
from precast.runtime.encoder.engine import Encoder
from precast.runtime.errors import (
    EmptyInputError,
    InputTooLongError,
    InputTypeError,
    OptionError,
    ProcessorError,
    TaskError,
    TokenIdError,
)
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from tests.support.artifacts import TinyModels
from tests.support.generating import SOURCE, TARGET, Generating, mbart, t5
from tests.support.random_requests import write_t5

Options = dict[str, Any]
TEXTS = ["the cat sat", "l'été où être naïve", "dogs weren't barking at night !", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Generating:
    return t5(tmp_path_factory.mktemp("t5"), max_length=14, no_repeat_ngram_size=2)


@pytest.fixture(scope="module")
def engine(made: Generating) -> Iterator[Seq2Seq]:
    with precast.Seq2Seq.load(made.artifact) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Generating:
    return mbart(tmp_path_factory.mktemp("mbart"))


def ids_of(output: GenerateOutput) -> list[int]:
    found: list[int] = output.token_ids.tolist()
    return found


def expected(made: Generating, text: str, **options: Any) -> list[int]:
    return made.generate(made.ids(text), **options)[0]


def test_one_a_list_and_an_empty_list(made: Generating, engine: Seq2Seq) -> None:
    one = engine.generate(TEXTS[0])
    assert isinstance(one, GenerateOutput) and one.text == made.text(ids_of(one))
    many = engine.generate(TEXTS[:3])
    assert isinstance(many, list) and [one.prompt_token_ids.tolist() for one in many] == [
        made.ids(text) for text in TEXTS[:3]
    ]
    assert ids_of(many[0]) == ids_of(one)
    assert engine.generate([]) == [] and engine.encode([]) == []
    assert ids_of(engine.generate([TEXTS[0]])[0]) == ids_of(one)


def test_the_checkpoints_own_defaults_hold(made: Generating, engine: Seq2Seq) -> None:
    """Generate with max_length 14 and no repeated bigram by default."""
    for text in TEXTS[:3]:
        assert ids_of(engine.generate(text)) == expected(made, text)
        assert len(ids_of(engine.generate(text, eos_token_id=[]))) == 14
        free: Options = {"no_repeat_ngram_size": 0, "max_length": TARGET}
        assert ids_of(engine.generate(text, **free)) == expected(made, text, **free)


def test_texts_and_ids_with_parameters_of_their_own(made: Generating, engine: Seq2Seq) -> None:
    values = [TEXTS[0], made.ids(TEXTS[1]), np.array(made.ids(TEXTS[2])), torch.tensor([5, 6])]
    own: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"max_length": 9}, {"num_beams": 2, "max_length": 8}]
    found = engine.generate(values, parameters=own, max_length=11)
    sources = [*map(made.ids, TEXTS[:3]), [5, 6]]
    for output, source, options in zip(found, sources, own, strict=True):
        assert ids_of(output) == made.generate(source, **{"max_length": 11, **options})[0]
    with pytest.raises(OptionError, match="expected parameters for each of 4 inputs, found 1"):
        engine.generate(values, parameters=[{}])


def test_several_sequences_best_first(made: Generating, engine: Seq2Seq) -> None:
    options: Options = {"num_beams": 4, "num_return_sequences": 3, "max_length": 10}
    output = engine.generate(TEXTS[1], **options)
    assert [one.token_ids.tolist() for one in output.sequences] == made.generate(
        made.ids(TEXTS[1]), **options
    )
    scores = [one.score for one in output.sequences]
    assert scores == sorted(scores, reverse=True)
    assert output.text == output.sequences[0].text and output.score == scores[0]


def test_errors_keep_the_position_of_their_input(engine: Seq2Seq) -> None:
    values = [TEXTS[0], None, [10**6], [], TEXTS[1]]
    found = engine.generate(values, return_exceptions=True)
    kinds = [GenerateOutput, InputTypeError, TokenIdError, EmptyInputError, GenerateOutput]
    assert [type(one) for one in found] == kinds
    assert [one.index for one in found[1:4]] == [1, 2, 3]
    with pytest.raises(InputTypeError, match="input 1: "):
        engine.generate(values)
    with pytest.raises(TokenIdError, match="input 1: "):
        engine.encode([TEXTS[0], [10**6]])


def test_a_given_beginning_of_the_target(made: Generating, engine: Seq2Seq) -> None:
    beginning = made.tokenizer("dogs sat", add_special_tokens=False).input_ids
    whole = [0, *beginning]
    for options in (Options(), Options(num_beams=3)):
        wanted = expected(made, TEXTS[0], decoder_input_ids=whole, **options)
        givens: list[Options] = [
            {"target_prefix": "dogs sat"}, {"target_prefix": beginning}, {"decoder_input_ids": whole},
            {"decoder_input_ids": np.array(beginning)},
        ]  # fmt: skip
        for given in givens:
            output = engine.generate(TEXTS[0], **given, **options)
            assert ids_of(output) == wanted and output.sequences[0].prefix_length == len(whole)
            assert len(output.sequences[0].logprobs) == len(wanted) - len(whole)
    with pytest.raises(OptionError, match="expected decoder_input_ids or target_prefix, found both"):
        engine.generate(TEXTS[0], target_prefix="a", decoder_input_ids=[0])
    with pytest.raises(InputTooLongError, match="the target begins with"):
        engine.generate(TEXTS[0], target_prefix=[5] * TARGET, max_length=TARGET)


class Favour:
    """Makes one token likelier if a sequence contains another one; records its arguments."""

    def __init__(self) -> None:
        self.shapes: list[tuple[Any, ...]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.shapes.append((input_ids.shape, input_ids.dtype, scores.shape, scores.dtype))
        return scores + 4.0 * torch.sin(torch.arange(scores.shape[1]) * input_ids.sum(1, keepdim=True))


@pytest.mark.parametrize("beams", [1, 3])
def test_logits_processors_behave_as_in_hugging_face(beams: int, made: Generating, engine: Seq2Seq) -> None:
    ours, theirs = Favour(), Favour()
    options: Options = {"num_beams": beams, "max_length": 12}
    with torch.no_grad():
        wanted = expected(made, TEXTS[0], logits_processor=LogitsProcessorList([theirs]), **options)
    plain = engine.generate(TEXTS[0], **options)
    others = [engine.submit(text, max_length=12) for text in TEXTS[1:3]]
    output = engine.generate(TEXTS[0], logits_processor=[ours], **options)
    assert ids_of(output) == wanted != ids_of(plain)
    assert ours.shapes == theirs.shapes
    for text, other in zip(TEXTS[1:3], others, strict=True):
        assert ids_of(other.result()) == expected(made, text, max_length=12)


def test_a_processor_sees_all_samples_until_the_last_one_ends(engine: Seq2Seq) -> None:
    seen: list[Tensor] = []

    def ends_one(input_ids: Tensor, scores: Tensor) -> Tensor:
        """End the first sequence with its third token, and no other."""
        seen.append(input_ids.clone())
        scores[:, 1] = -torch.inf
        if input_ids.shape[1] == 3:
            scores[0] = torch.full_like(scores[0], -torch.inf)
            scores[0, 1] = 0.0
        return scores

    output = engine.generate(
        TEXTS[0], do_sample=True, seed=3, num_return_sequences=3, max_length=9, logits_processor=[ends_one]
    )
    assert [len(one.token_ids) for one in output.sequences] == [4, 9, 9]
    assert [tuple(ids.shape) for ids in seen] == [(3, length) for length in range(1, 9)]
    for ids in seen:
        length = ids.shape[1]
        for row, one in zip(ids.tolist(), output.sequences, strict=True):
            known = one.token_ids[:length].tolist()
            assert row == known + known[-1:] * (length - len(known))


def raising(input_ids: Tensor, scores: Tensor) -> Tensor:
    if input_ids.shape[1] == 4:
        raise KeyError("mine")
    return scores


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (raising, "KeyError: 'mine'"),
        (lambda ids, scores: scores[:, :-1], r"scores of shape \(1, \d+\), found \(1, \d+\)"),
        (lambda ids, scores: None, "found NoneType"),
        (lambda ids: ids, "TypeError"),
    ],
    ids=["raises", "shape", "none", "arguments"],
)
def test_a_processor_that_fails_ends_its_own_request(
    processor: Any, message: str, made: Generating, engine: Seq2Seq
) -> None:
    own: list[Options] = [{}, {"logits_processor": [processor]}, {}]
    found = engine.generate(TEXTS[:3], parameters=own, return_exceptions=True, eos_token_id=[])
    with pytest.raises(ProcessorError, match=message):
        raise found[1]
    for place in (0, 2):
        assert ids_of(found[place]) == ids_of(engine.generate(TEXTS[place], eos_token_id=[]))


def test_encode_gives_the_encoders_hidden_states(made: Generating, engine: Seq2Seq) -> None:
    sources = [made.ids(text) or [1] for text in TEXTS[:3]] * 3
    found = engine.encode([*TEXTS[:3], *sources[3:]])
    for output, source in zip(found, sources, strict=True):
        with torch.no_grad():
            theirs = made.model.get_encoder()(torch.tensor([source])).last_hidden_state[0].numpy()
        assert output.prompt_token_ids.tolist() == source
        np.testing.assert_allclose(output.hidden, theirs, atol=2e-4 * max(1, abs(theirs).max()))
    np.testing.assert_array_equal(engine.encode(TEXTS[0]).hidden.shape, found[0].hidden.shape)


def test_over_long_sources_are_truncated_or_rejected(made: Generating, engine: Seq2Seq) -> None:
    ids = [5 + number % 40 for number in range(SOURCE + 9)]
    cuts: list[tuple[Any, list[int]]] = [
        (True, ids[:SOURCE]), ("right", ids[:SOURCE]), ("left", ids[-SOURCE:]),
    ]  # fmt: skip
    for truncate, kept in cuts:
        output = engine.generate(ids, truncate=truncate)
        assert output.truncated and output.prompt_token_ids.tolist() == kept
        assert ids_of(output) == made.generate(kept)[0]
        encoded = engine.encode(ids, truncate=truncate)
        assert encoded.truncated and encoded.prompt_token_ids.tolist() == kept
    long = "the cat sat on a mat " * 9
    assert engine.generate(long).truncated and len(engine.generate(long).prompt_token_ids) == SOURCE
    for value in (ids, long):
        for call in (engine.generate, engine.encode):
            with pytest.raises(InputTooLongError, match=f"the artifact takes {SOURCE}"):
                call([value], truncate=False)
    with pytest.raises(InputTooLongError):
        engine.submit(ids, truncate=False)


def test_languages_of_source_and_target(translating: Generating) -> None:
    with precast.Seq2Seq.load(translating.artifact) as engine:
        code = {name: translating.tokenizer.convert_tokens_to_ids(name) for name in ("en_XX", "de_DE")}
        for source, target in (("en_XX", "de_DE"), ("de_DE", "en_XX")):
            ids = translating.ids("the cat sat", source)
            output = engine.generate(
                "the cat sat", src_lang=source, tgt_lang=target, num_beams=2, max_length=9
            )
            assert output.prompt_token_ids.tolist() == ids and code[source] in ids
            wanted = translating.generate(ids, forced_bos_token_id=code[target], num_beams=2, max_length=9)[0]
            assert ids_of(output) == wanted and wanted[1] == code[target]
            assert engine.encode("the cat sat", src_lang=source).prompt_token_ids.tolist() == ids
        for name in ("src_lang", "tgt_lang"):
            with pytest.raises(OptionError, match="xx_YY"):
                engine.generate("the", **Options({name: "xx_YY"}))


def test_unsupported_options_are_rejected_by_name(engine: Seq2Seq) -> None:
    before = engine.stats()
    for name, value in (("max_new_token", 3), ("guidance_scale", 2.0), ("streamer", object())):
        for call in (engine.generate, engine.submit, engine.stream):
            with pytest.raises(OptionError, match=f"^{name} is"):
                call("the", **Options({name: value}))
    assert engine.stats().source_batches == before.source_batches


def test_timings_and_statistics(engine: Seq2Seq) -> None:
    before = engine.stats()
    outputs = engine.generate(TEXTS[:3], max_length=10)
    for output in outputs:
        timings = output.timings
        assert 0 < timings.scheduled < timings.first_token <= timings.finished < 60
    after = engine.stats()
    assert after.requests == before.requests + 3 and after.failed == before.failed
    assert after.tokens - before.tokens == sum(len(ids_of(output)) - 1 for output in outputs)
    assert after.num_seqs == 8 and after.tokens_per_second > 0


def test_each_class_loads_its_own_kind_of_artifact(made: Generating, tiny: TinyModels) -> None:
    with (
        Seq2Seq.load(made.artifact, max_waiting=3) as engine,
        Encoder.load(tiny["embed"].artifact) as encoder,
    ):
        assert type(engine) is Seq2Seq and type(encoder) is Encoder
        assert not hasattr(engine, "embed") and not hasattr(encoder, "generate")
    with pytest.raises(TaskError, match="compiled with --task generate; load it with precast.Seq2Seq.load"):
        Encoder.load(made.artifact)
    with pytest.raises(TaskError, match="compiled with --task embed; load it with precast.Encoder.load"):
        Seq2Seq.load(tiny["embed"].artifact)
    with pytest.raises(OptionError, match="kv_cache_bytes need an artifact that generates"):
        precast.load(tiny["embed"].artifact, kv_cache_bytes=1 << 20)


def test_an_engine_that_is_dropped_ends_its_thread(made: Generating) -> None:
    engine = precast.Seq2Seq.load(made.artifact)
    thread = engine._core.thread
    engine.generate("the cat")
    del engine
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_sampling_repeats_by_its_seed_in_any_company(engine: Seq2Seq) -> None:
    options: Options = {"do_sample": True, "seed": 5, "num_return_sequences": 3, "max_length": 12}
    alone = engine.generate(TEXTS[0], **options)
    again = engine.generate([*TEXTS[:3], TEXTS[0]], **options)[::3]
    for output in again:
        assert [one.text for one in output.sequences] == [one.text for one in alone.sequences]
    assert len({one.text for one in alone.sequences}) > 1
    assert engine.generate(TEXTS[0], **options | {"seed": 6}).text != alone.text


def test_artifacts_without_a_tokenizer_take_and_give_ids(tmp_path: Path, made: Generating) -> None:
    precast.compile(
        write_t5(tmp_path / "c"), tmp_path / "a", backend="reference", verify=False, max_num_seqs=4
    )
    with precast.Seq2Seq.load(tmp_path / "a") as engine:
        output = engine.generate([3, 4, 5])
        assert output.text is None and len(output.token_ids) > 1
        with pytest.raises(OptionError, match="no tokenizer, so there is no text"):
            engine.stream([3, 4, 5])
        found = engine.generate(["the", [3]], return_exceptions=True)
        assert type(found[0]).__name__ == "TokenizationError" and found[1].text is None
