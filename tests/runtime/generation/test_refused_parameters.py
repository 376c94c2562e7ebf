"""Unsupported and invalid parameters are rejected by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from precast.artifacts.generation_defaults import UNSUPPORTED, WITHOUT_EFFECT, GenerationDefaults
from precast.graphs.generation_parameters import EOS_TOKENS
from precast.graphs.sampling import MAX_BEAMS
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import OptionError
from precast.runtime.generation.sampling_params import SUPPORTED, resolve

VOCAB = 9
LIMITS = GenerateLimits(
    max_source_length=16, max_target_length=60, max_tokens=64, max_batch=4, max_num_seqs=MAX_BEAMS + 8
)
START = GenerationDefaults(decoder_start_token_id=2)


def test_names_of_hf_are_all_accounted_for() -> None:
    known = {*SUPPORTED, *UNSUPPORTED, *WITHOUT_EFFECT}
    assert len(known) == len(SUPPORTED) + len(UNSUPPORTED) + len(WITHOUT_EFFECT)
    assert set(GenerationConfig().to_dict()) - {"transformers_version", "_from_model_config"} == known - {
        "seed"
    }
    for name, value in GenerationConfig._get_default_generation_params().items():
        if name in UNSUPPORTED or name in WITHOUT_EFFECT:
            assert {**UNSUPPORTED, **WITHOUT_EFFECT}[name] == value


@pytest.mark.parametrize("name", [*UNSUPPORTED, *WITHOUT_EFFECT])
def test_unsupported_names_are_rejected_unless_neutral(name: str) -> None:
    plain = resolve(START, LIMITS, VOCAB, {}, None)
    for nothing in (None, {**UNSUPPORTED, **WITHOUT_EFFECT}[name]):
        assert resolve(START, LIMITS, VOCAB, {name: nothing}, None) == plain
    for something in ("other", 7, np.array([1, 2])):
        with pytest.raises(OptionError, match=f"^{name} is not supported"):
            resolve(START, LIMITS, VOCAB, {name: something}, None)


@pytest.mark.parametrize("name", ["logits_processor", "stopping_criteria", "streamer", "generation_config"])
def test_other_arguments_of_hf_generate_are_rejected(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} is not supported"):
        resolve(START, LIMITS, VOCAB, {name: object()}, None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("max_new_token", "max_new_tokens"), ("temprature", "temperature"), ("n_beams", "num_beams")],
)
def test_unknown_names_are_rejected_with_a_suggestion(name: str, near: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} is no parameter of generation; did you mean {near}"):
        resolve(START, LIMITS, VOCAB, {name: 1}, None)


SAMPLED = {"do_sample": True}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"qqqq": 1}, "there are max_length, max_new_tokens"),
    *(
        ({name: True}, f"{name} must be a whole number")
        for name in ("max_length", "num_beams", "top_k", "seed")
    ),
    *(({name: 2.0}, f"{name} must be a whole number") for name in ("max_new_tokens", "min_length")),
    ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, found 0"),
    ({"min_length": -1}, "min_length must be a whole number of at least 0"),
    ({"min_new_tokens": -1}, "min_new_tokens must be a whole number of at least 0"),
    ({"num_beams": 0}, "num_beams must be a whole number of at least 1"),
    ({"num_return_sequences": 0}, "num_return_sequences must be a whole number"),
    ({"num_return_sequences": 2}, "num_return_sequences must be 1 for greedy search, found 2"),
    ({"num_beams": 2, "num_return_sequences": 3}, "at most num_beams = 2, found 3"),
    ({"num_beams": 2, "do_sample": True}, "do_sample = True with num_beams = 2"),
    ({"num_beams": MAX_BEAMS + 1}, f"num_beams must be at most {MAX_BEAMS}, found {MAX_BEAMS + 1}"),
    ({**SAMPLED, "num_return_sequences": 73}, "num_return_sequences = 73 needs as many sequences.*has 72"),
    ({"do_sample": 1}, "do_sample must be True or False, found 1"),
    ({"renormalize_logits": "yes"}, "renormalize_logits must be True or False"),
    ({"early_stopping": 1}, "early_stopping must be True, False or 'never', found 1"),
    ({"early_stopping": "always"}, "early_stopping must be"),
    *(
        ({name: value}, f"{name} must be a finite number")
        for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty")
        for value in (math.nan, math.inf, 10**400, "1", True, np.float16("inf"))
    ),
    ({**SAMPLED, "temperature": 0.0}, "temperature must be a number above 0, found 0.0"),
    ({**SAMPLED, "temperature": 1e-50}, "temperature must be a number above 0, found 1e-50"),
    ({**SAMPLED, "temperature": -1.0}, "temperature must be a number above 0, found -1.0"),
    ({**SAMPLED, "top_k": -1}, "top_k must be a whole number of at least 0, found -1"),
    ({**SAMPLED, "top_p": -0.1}, "top_p must be a number from 0 to 1"),
    ({**SAMPLED, "min_p": 1.5}, "min_p must be a number from 0 to 1"),
    ({**SAMPLED, "min_p": -0.5}, "min_p must be a number from 0 to 1"),
    ({**SAMPLED, "typical_p": 0.0}, "typical_p must be a number above 0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be a number above 0"),
    ({"encoder_repetition_penalty": -1.0}, "encoder_repetition_penalty must be a number above 0"),
    ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be a whole number of at least 0"),
    ({"encoder_no_repeat_ngram_size": 1.0}, "encoder_no_repeat_ngram_size must be a whole number"),
    ({"seed": -1}, "seed must be a whole number of at least 0"),
    ({"seed": (1 << 63)}, "seed must be below"),
    *(
        ({name: value}, f"{name} names the token {value}; the vocabulary has ids from 0 to {VOCAB - 1}")
        for name in (
            "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "bos_token_id",
            "begin_suppress_tokens", "decoder_start_token_id",
        )
        for value in (-1, VOCAB)
    ),
    ({"forced_eos_token_id": []}, "forced_eos_token_id must be a token id or a list of at least one"),
    ({"eos_token_id": list(range(EOS_TOKENS + 1))}, f"must name at most {EOS_TOKENS} tokens, found 5"),
    ({"eos_token_id": [1, 2.0]}, "eos_token_id must be made of token ids"),
    ({"eos_token_id": "</s>"}, "eos_token_id must be a list of token ids, found '</s>'"),
    ({"pad_token_id": "<pad>"}, "pad_token_id must be a whole number"),
    ({"bad_words_ids": []}, "bad_words_ids must be a list of lists of token ids, and not empty"),
    ({"bad_words_ids": [[]]}, "bad_words_ids must be made of sequences of at least one token"),
    ({"bad_words_ids": [3]}, "bad_words_ids must be a list of token ids, found 3"),
    ({"bad_words_ids": [[3, VOCAB]]}, f"bad_words_ids names the token {VOCAB}"),
    ({"sequence_bias": {}}, "sequence_bias must be a dictionary of token tuples"),
    ({"sequence_bias": [[[1], 1.0, 2.0]]}, "sequence_bias must be a dictionary of token tuples"),
    ({"sequence_bias": {(): 1.0}}, "sequence_bias must be made of sequences of at least one token"),
    ({"sequence_bias": {(1,): math.inf}}, "sequence_bias must be a finite number of 32 bits, or minus"),
    ({"sequence_bias": {(1,): math.nan}}, "sequence_bias must be a finite number of 32 bits, or minus"),
    ({"sequence_bias": {(VOCAB,): 1.0}}, f"sequence_bias names the token {VOCAB}"),
    ({"suppress_tokens": [1, 2], "forced_bos_token_id": 2}, r"every token of forced_bos_token_id \[2\]"),
    ({"suppress_tokens": [1, 2], "forced_eos_token_id": [2, 1]}, "every token of forced_eos_token_id"),
    ({"max_length": 1}, "begins with 1 tokens.* and max_length ends it at 1"),
    ({"max_length": 61}, "max_length = 61 needs 61 positions.*the artifact has 60"),
    ({"max_new_tokens": 60}, "max_new_tokens = 60 needs 61 positions.*the artifact has 60"),
    ({"max_new_tokens": 10**30}, "max_new_tokens = 1000"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_invalid_values_are_rejected_by_name(call: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(START, LIMITS, VOCAB, call, None)
