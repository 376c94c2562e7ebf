"""``resolve``, compared with the preparation in Hugging Face's ``generate`` for the same arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig
from transformers.generation import LogitsProcessorList
from transformers.generation import logits_process as hf

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.graphs.sampling import MAX_NGRAM
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import InputTooLongError, OptionError
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.generation.token_bias import TokenBias

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible", "ignore:Using the model-agnostic")

VOCAB = 9
POSITIONS = 22
SOURCE = [3, 4, 3, 5, 4, 3]
LIMITS = GenerateLimits(
    max_source_length=16, max_target_length=60, max_tokens=64, max_batch=4, max_num_seqs=8
)
START = GenerationDefaults(decoder_start_token_id=2)

TOKEN = st.integers(0, VOCAB - 1)
TOKENS = st.lists(TOKEN, min_size=1, max_size=3)
SEQUENCE = st.lists(TOKEN, min_size=1, max_size=3)
LENGTH = st.integers(1, 30)
PENALTY = st.sampled_from([0.5, 1.0, 1.3, 2.0])
SHARE = st.sampled_from([0.25, 0.9, 1.0])
# Only in this form Hugging Face rejects the token 0. Eighths add up without rounding, in any order.
BIAS = st.lists(
    st.tuples(st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=3), st.integers(-9, 9)), min_size=1
).map(lambda pairs: [[ids, eighths / 8] for ids, eighths in pairs])

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "max_length": LENGTH,
    "max_new_tokens": st.integers(1, 20),
    "min_length": LENGTH,
    "min_new_tokens": st.integers(0, 9),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "do_sample": st.booleans(),
    "num_beams": st.integers(1, 4),
    "num_return_sequences": st.integers(1, 4),
    "temperature": st.sampled_from([0.5, 1.0, 1.5]),
    "top_k": st.integers(0, VOCAB + 2),
    "top_p": SHARE,
    "min_p": st.sampled_from([0.0, 0.1, 1.0]),
    "typical_p": SHARE,
    "repetition_penalty": PENALTY,
    "encoder_repetition_penalty": PENALTY,
    "length_penalty": st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    "no_repeat_ngram_size": st.integers(0, 4),
    "encoder_no_repeat_ngram_size": st.integers(0, 4),
    "bad_words_ids": st.lists(SEQUENCE, min_size=1, max_size=4),
    "sequence_bias": BIAS,
    "renormalize_logits": st.booleans(),
    "forced_bos_token_id": TOKEN,
    "forced_eos_token_id": st.one_of(TOKEN, TOKENS),
    "suppress_tokens": st.lists(TOKEN, max_size=3),
    "begin_suppress_tokens": st.lists(TOKEN, max_size=3),
    "bos_token_id": TOKEN,
    "eos_token_id": st.one_of(TOKEN, TOKENS),
    "pad_token_id": TOKEN,
    "decoder_start_token_id": TOKEN,
}
# Hugging Face fails internally if one of these is None.
NEVER_NONE = {"max_length", "num_beams", "num_return_sequences", "length_penalty"}


def some_of(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Sample a few parameters: among many, some always contradict each other."""
    names = st.lists(st.sampled_from(sorted(values)), max_size=6, unique=True)
    return names.flatmap(lambda some: st.fixed_dictionaries({name: values[name] for name in some}))


CHECKPOINTS = some_of(VALUES)
CALLS = some_of(
    {
        name: values if name in NEVER_NONE else st.one_of(values, values, values, st.none())
        for name, values in VALUES.items()
    }
)


@dataclass(frozen=True)
class Prepared:
    """The arguments of the decoding loop inside ``generate``."""

    config: GenerationConfig
    processors: LogitsProcessorList
    input_ids: torch.Tensor


def make_model(max_position_embeddings: int) -> BartForConditionalGeneration:
    config = BartConfig(
        vocab_size=VOCAB, d_model=4, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=4, decoder_ffn_dim=4,
        max_position_embeddings=max_position_embeddings,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()


MODEL = make_model(POSITIONS)


def prepare(checkpoint: dict[str, Any], call: dict[str, Any], prefix: list[int] | None) -> Prepared:
    """Run everything in ``generate`` up to its decoding loop."""
    found: list[Prepared] = []

    def decode(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        **others: Any,
    ) -> torch.Tensor:
        found.append(Prepared(generation_config, logits_processor, input_ids))
        return input_ids

    MODEL.generation_config = GenerationConfig(**checkpoint)
    begin = {} if prefix is None else {"decoder_input_ids": torch.tensor([prefix])}
    MODEL.generate(torch.tensor([SOURCE]), custom_generate=decode, **call, **begin)
    return found[0]


def as_defaults(checkpoint: dict[str, Any]) -> GenerationDefaults:
    """Return the defaults as the compiler would store them."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    values = {name: frozen(value) for name, value in checkpoint.items()}
    for name in ("eos_token_id", "forced_eos_token_id"):
        if isinstance(values.get(name), int):
            values[name] = (values[name],)
    return GenerationDefaults(**values, max_position_embeddings=POSITIONS)


def interpret(plan: SamplingParams, history: list[int], logits: torch.Tensor) -> torch.Tensor:
    """Return the scores ``[vocab]`` of logits by a plain implementation of the parameters."""
    scores, length = logits.clone(), len(history)

    def add(after: bool) -> None:
        for bias in plan.token_biases:
            count = len(bias.prefix)
            same = tuple(history[length - count :]) == bias.prefix
            if bias.after is after and bias.first <= length <= bias.last and count < length and same:
                scores[bias.token] += bias.value

    add(after=False)
    for text, penalty in (
        (SOURCE, 1 / plan["encoder_repetition_penalty"]),
        (history, plan["repetition_penalty"]),
    ):
        for token in set(text):
            scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
    for text, size in (
        (history, plan["no_repeat_ngram_size"]),
        (SOURCE, plan["encoder_no_repeat_ngram_size"]),
    ):
        tail = history[length - size + 1 :]
        for at in range(len(text) - size + 1 if 0 < size <= length + 1 else 0):
            if text[at : at + size - 1] == tail:
                scores[text[at + size - 1]] = -math.inf
    bos, eos = plan["forced_bos_token_id"], plan["forced_eos_token_id"]
    bos = () if bos is None else (bos,)
    for tokens, due in ((bos, length == 1), (eos, length == plan.max_length - 1)):
        if tokens and due:
            scores[:] = -math.inf
            scores[list(tokens)] = 0.0
    add(after=True)
    return scores


WARPERS = {
    hf.TemperatureLogitsWarper: "temperature",
    hf.TopKLogitsWarper: "top_k",
    hf.TopPLogitsWarper: "top_p",
    hf.MinPLogitsWarper: "min_p",
    hf.TypicalLogitsWarper: "mass",
}
NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "mass": 1.0}


def warpers_of(prepared: Prepared) -> dict[str, float]:
    found = {WARPERS[type(one)]: one for one in prepared.processors if type(one) in WARPERS}
    values = {**NEUTRAL, **{name: getattr(one, name) for name, one in found.items()}}
    return values if values["top_k"] < VOCAB else {**values, "top_k": 0}


def both(
    checkpoint: dict[str, Any], call: dict[str, Any], prefix: list[int] | None
) -> tuple[Prepared, SamplingParams]:
    """Return Hugging Face's preparation and ours; the example is rejected if both reject the arguments."""
    try:
        GenerationConfig(**checkpoint)
    except ValueError:
        reject()  # no such checkpoint can be loaded
    merged = {**checkpoint, **call}
    if merged.get("do_sample") and (merged.get("num_beams") or 1) > 1:
        with pytest.raises(OptionError):  # which Hugging Face would do
            resolve(as_defaults(checkpoint), LIMITS, VOCAB, call, prefix)
        reject()
    try:
        prepared = prepare(checkpoint, call, prefix)
    except ValueError:
        with pytest.raises(OptionError):
            resolve(as_defaults(checkpoint), LIMITS, VOCAB, call, prefix)
        reject()
    return prepared, resolve(as_defaults(checkpoint), LIMITS, VOCAB, call, prefix)


PREFIXES = st.one_of(st.none(), st.lists(TOKEN, min_size=1, max_size=24))


@settings(max_examples=500, deadline=None)
@given(CHECKPOINTS, CALLS, PREFIXES)
def test_parameters_are_those_that_hf_decodes_with(
    checkpoint: dict[str, Any], call: dict[str, Any], prefix: list[int] | None
) -> None:
    prepared, plan = both({"decoder_start_token_id": 2, **checkpoint}, call, prefix)
    config = prepared.config
    assert list(plan.prefix) == prepared.input_ids[0].tolist()
    assert plan.num_seqs == len(prepared.input_ids)
    assert plan.max_length == config.max_length
    assert (
        plan.mode
        == {"beam_search": "beam", "greedy_search": "greedy", "sample": "multinomial"}[
            config.get_generation_mode().value
        ]
    )
    eos = config._eos_token_tensor
    assert plan.eos_token_ids == tuple(dict.fromkeys([] if eos is None else eos.tolist()))
    assert (plan.num_beams, plan.num_return_sequences) == (config.num_beams, config.num_return_sequences)
    assert plan["length_penalty"] == config.length_penalty
    assert plan["early_stopping"] == (config.early_stopping or False)
    names = {"mass": "typical_p"}
    ours = {name: plan[names.get(name, name)] for name in NEUTRAL}
    assert ours == warpers_of(prepared)
    normalized = any(isinstance(one, hf.LogitNormalization) for one in prepared.processors)
    assert plan["renormalize_logits"] is normalized


@settings(max_examples=800, deadline=None)
@given(CHECKPOINTS, CALLS, PREFIXES, st.data())
def test_processors_compute_hf_scores(
    checkpoint: dict[str, Any], call: dict[str, Any], prefix: list[int] | None, data: st.DataObject
) -> None:
    prepared, plan = both({"decoder_start_token_id": 2, **checkpoint}, call, prefix)
    written = len(plan.prefix)
    edges = [length for length in (written, written + 1, plan.max_length - 1) if length < plan.max_length]
    length = data.draw(st.one_of(st.sampled_from(edges), st.integers(written, plan.max_length - 1)))
    # Few distinct tokens, so that sequences often match biases.
    likely = st.sampled_from(
        [*SOURCE, *(token for bias in plan.token_biases for token in bias.prefix), *range(VOCAB)]
    )
    more = st.lists(likely, min_size=length - written, max_size=length - written)
    history = [*plan.prefix, *data.draw(more)]
    eighths = data.draw(st.lists(st.integers(-32, 32), min_size=VOCAB, max_size=VOCAB))
    logits = torch.tensor(eighths) / 8
    assert_same_scores(prepared, plan, history, logits)


def assert_same_scores(
    prepared: Prepared, plan: SamplingParams, history: list[int], logits: torch.Tensor
) -> None:
    expected = logits[None]
    for processor in prepared.processors:
        if type(processor) not in WARPERS and not isinstance(processor, hf.LogitNormalization):
            expected = processor(torch.tensor([history]), expected)
    assert torch.equal(interpret(plan, history, logits), expected[0])
    assert plan.needs_processing or torch.equal(expected[0], logits)


@pytest.mark.parametrize(
    "call",
    [
        {"bad_words_ids": [[1], [1, 3], [3, 1]], "eos_token_id": [1, 4]},
        {"forced_eos_token_id": [1, 3], "suppress_tokens": [3]},
        {"forced_bos_token_id": 3, "begin_suppress_tokens": [3, 4]},
        {"forced_eos_token_id": [1, 3], "begin_suppress_tokens": [3], "max_length": 2},
        {"encoder_no_repeat_ngram_size": 5, "repetition_penalty": 2.0},
    ],
)
def test_processors_combine_as_in_hf_at_every_length(call: dict[str, Any]) -> None:
    prepared, plan = both({"decoder_start_token_id": 2, "max_length": 8}, call, None)
    history = [2, 3, 4, 3, 5, 1, 3]
    for length in range(1, plan.max_length):
        assert_same_scores(prepared, plan, history[:length], torch.arange(VOCAB) / 2 - 2)


def test_the_top_k_of_hf_holds_unless_taken_back() -> None:
    sampled: dict[str, Any] = {"do_sample": True}
    assert resolve(START, LIMITS, 51, sampled, None)["top_k"] == 50
    assert resolve(START, LIMITS, 50, sampled, None)["top_k"] == 0
    assert resolve(START, LIMITS, 51, {**sampled, "top_k": None}, None)["top_k"] == 0


@pytest.mark.parametrize("name", sorted(NEVER_NONE))
def test_none_cancels_a_default_where_hf_fails(name: str) -> None:
    checkpoint = {"max_length": 7, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 3.0}
    fewer = {**checkpoint, name: None} if name != "num_beams" else {"max_length": 7, "length_penalty": 3.0}
    call = {name: None} if name != "num_beams" else {name: None, "num_return_sequences": None}
    defaults = as_defaults({**checkpoint, "decoder_start_token_id": 2})
    expected = as_defaults({**fewer, "decoder_start_token_id": 2})
    assert resolve(defaults, LIMITS, VOCAB, call, None) == resolve(expected, LIMITS, VOCAB, {}, None)
    assert resolve(defaults, LIMITS, VOCAB, call, None) != resolve(defaults, LIMITS, VOCAB, {}, None)


def test_values_of_numpy_are_those_of_python() -> None:
    call: dict[str, Any] = {
        "do_sample": True, "num_return_sequences": 2, "max_new_tokens": 5, "temperature": 0.5, "top_k": 3,
        "eos_token_id": 4, "suppress_tokens": [1, 3], "bad_words_ids": [[5, 6]], "seed": 1,
        "sequence_bias": {(1, 2): 0.5},
    }  # fmt: skip
    same: dict[str, Any] = {
        "do_sample": np.bool_(True), "num_return_sequences": np.int64(2), "max_new_tokens": np.int32(5),
        "temperature": np.float32(0.5), "top_k": np.uint8(3), "eos_token_id": np.int16(4),
        "suppress_tokens": np.array([1, 3]), "bad_words_ids": [np.array([5, 6])], "seed": np.int64(1),
        "sequence_bias": [[[np.int64(1), 2], np.float16(0.5)]],
    }  # fmt: skip
    plain = resolve(START, LIMITS, VOCAB, call, [2, 3])
    found = resolve(START, LIMITS, VOCAB, same, np.array([2, 3]))  # type: ignore[arg-type]
    assert found == plain and repr(found) == repr(plain)


def test_numbers_of_sampling_do_not_matter_elsewhere() -> None:
    call = {"temperature": 0.0, "top_p": -1.0, "min_p": 7.0, "typical_p": 0.0}
    assert resolve(START, LIMITS, VOCAB, call, None) == resolve(START, LIMITS, VOCAB, {}, None)


def test_a_target_needs_a_first_token() -> None:
    with pytest.raises(OptionError, match="decoder_start_token_id or bos_token_id must be given"):
        resolve(GenerationDefaults(), LIMITS, VOCAB, {}, None)
    assert resolve(GenerationDefaults(), LIMITS, VOCAB, {"bos_token_id": 4}, None).prefix == (4,)


def test_default_lengths_are_capped_and_given_ones_rejected() -> None:
    limits = replace(LIMITS, max_target_length=12)
    for checkpoint in ({}, {"max_length": 40}, {"max_new_tokens": 40}):
        defaults = as_defaults({"decoder_start_token_id": 2, **checkpoint})
        assert resolve(defaults, limits, VOCAB, {}, None).max_length == 12
        assert resolve(defaults, limits, VOCAB, {"max_new_tokens": 11}, None).max_length == 12
        for call in ({"max_new_tokens": 12}, {"max_length": 13, "max_new_tokens": None}):
            with pytest.raises(OptionError, match="needs 13 positions.*the artifact has 12"):
                resolve(defaults, limits, VOCAB, call, None)
    # In Hugging Face max_new_tokens takes precedence over max_length, even the checkpoint's over the call's.
    plan = resolve(
        as_defaults({"decoder_start_token_id": 2, "max_new_tokens": 3}),
        limits,
        VOCAB,
        {"max_length": 13},
        None,
    )
    assert plan.max_length == 4


def test_a_prefix_leaves_room_for_one_token() -> None:
    limits = replace(LIMITS, max_target_length=6)
    assert resolve(START, limits, VOCAB, {}, [3] * 4).max_length == 6
    with pytest.raises(InputTooLongError, match="begins with 6 tokens.*room for 6.*at most 5"):
        resolve(START, limits, VOCAB, {}, [3] * 5)
    with pytest.raises(OptionError, match="the prefix names the token 9"):
        resolve(START, limits, VOCAB, {}, [3, 9])
    with pytest.raises(OptionError, match="the prefix must be a list of token ids, found 'text'"):
        resolve(START, limits, VOCAB, {}, "text")  # type: ignore[arg-type]


def test_impossible_ngrams_have_no_effect_and_long_ones_are_rejected() -> None:
    limits = GenerateLimits(4000, 4000, 4000, 1, 1)
    long: dict[str, Any] = {"max_length": 3000}
    for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"):
        assert resolve(START, limits, VOCAB, {**long, name: MAX_NGRAM}, None)[name] == MAX_NGRAM
        assert resolve(START, limits, VOCAB, {**long, name: 10**30}, None)[name] == 0
        with pytest.raises(OptionError, match=f"{name} must be at most {MAX_NGRAM}, found 1025"):
            resolve(START, limits, VOCAB, {**long, name: MAX_NGRAM + 1}, None)


def test_ngrams_longer_than_every_source_have_no_effect() -> None:
    for size, kept in ((16, 16), (17, 0)):
        plan = resolve(START, LIMITS, VOCAB, {"max_length": 40, "encoder_no_repeat_ngram_size": size}, None)
        assert plan["encoder_no_repeat_ngram_size"] == kept


def test_biases_that_never_act_are_left_out() -> None:
    call = {
        "max_length": 4, "min_length": 1, "eos_token_id": [1, 2], "min_new_tokens": 0,
        "bad_words_ids": [[1], [3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3, 3]],
    }  # fmt: skip
    assert resolve(START, LIMITS, VOCAB, call, None).token_biases == (TokenBias(3, -math.inf, prefix=(3, 3)),)


def test_an_endless_minimum_fits_the_table() -> None:
    token_biases = resolve(START, LIMITS, VOCAB, {"min_length": 10**30, "eos_token_id": 1}, None).token_biases
    assert [bias.last < 1 << 31 for bias in token_biases] == [True]


def test_minus_infinity_is_a_bias() -> None:
    plan = resolve(START, LIMITS, VOCAB, {"sequence_bias": {(4, 5): -math.inf}}, None)
    assert plan.token_biases == (TokenBias(5, -math.inf, prefix=(4,)),)


def test_seeds_are_fresh_unless_given() -> None:
    sampled = as_defaults({"decoder_start_token_id": 2, "do_sample": True})
    for call in ({}, {"temperature": 0.5}):
        seeds = {resolve(sampled, LIMITS, VOCAB, call, None)["seed"] for _ in range(8)}
        assert len(seeds) == 8 and all(0 <= seed < 1 << 62 for seed in seeds)
    assert resolve(sampled, LIMITS, VOCAB, {"seed": 7}, None)["seed"] == 7


def test_the_defaults_are_resolved_once() -> None:
    assert resolve(START, LIMITS, VOCAB, {}, None) is resolve(START, LIMITS, VOCAB, {}, None)
    assert resolve(START, LIMITS, VOCAB, {}, None) is not resolve(START, LIMITS, VOCAB + 1, {}, None)
