"""A checkpoint's generation defaults equal those of the model that transformers loads, or are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from precast.artifacts.generation_defaults import UNSUPPORTED, GenerationDefaults
from precast.compiler.errors import CheckpointError, UnsupportedConfigError
from precast.compiler.frontend.checkpoint import Checkpoint, open_checkpoint
from precast.compiler.frontend.generation_config import read_generation_config
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.generation.sampling_params import SUPPORTED, resolve

LIMITS = GenerateLimits(64, 64, 64, 4, 8)


def bart() -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=9, d_model=4, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
            decoder_attention_heads=1, encoder_ffn_dim=4, decoder_ffn_dim=4, max_position_embeddings=16,
        )
    )  # fmt: skip


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


@pytest.fixture(scope="module", params=[bart, t5])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    request.param().save_pretrained(path)
    return path


def write(folder: Path, values: dict[str, Any]) -> Checkpoint:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return open_checkpoint(str(folder))


def plain(value: Any) -> Any:
    """Return a value with tuples replaced by lists, for comparisons with HF's values."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def assert_same(defaults: GenerationDefaults, model: PreTrainedModel) -> None:
    for name, value in defaults:
        expected = getattr(
            model.config if name == "max_position_embeddings" else model.generation_config, name, None
        )
        if name in ("eos_token_id", "forced_eos_token_id") and isinstance(expected, int):
            expected = [expected]
        assert plain(value) == expected, name


VALUES = {
    "max_length": st.integers(1, 99),
    "max_new_tokens": st.integers(1, 99),
    "min_length": st.integers(0, 9),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "num_return_sequences": st.integers(1, 4),
    "temperature": st.floats(0.1, 2),
    "top_k": st.integers(0, 9),
    "repetition_penalty": st.floats(0.5, 2),
    "no_repeat_ngram_size": st.integers(0, 4),
    "bad_words_ids": st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=3), min_size=1, max_size=3),
    "sequence_bias": st.lists(
        st.tuples(st.lists(st.integers(1, 8), min_size=1, max_size=3), st.floats(-3, 3)).map(list), min_size=1
    ),
    "renormalize_logits": st.booleans(),
    "forced_bos_token_id": st.integers(0, 8),
    "forced_eos_token_id": st.one_of(st.integers(0, 8), st.lists(st.integers(0, 8), min_size=1, max_size=3)),
    "begin_suppress_tokens": st.lists(st.integers(0, 8), max_size=3),
    "eos_token_id": st.one_of(st.integers(0, 8), st.lists(st.integers(0, 8), min_size=1, max_size=3)),
    "pad_token_id": st.integers(-1, 8),
    "decoder_start_token_id": st.integers(0, 8),
    "use_cache": st.booleans(),
    "output_scores": st.booleans(),
    "num_beam_groups": st.just(1),
    "guidance_scale": st.just(1),
}


@settings(max_examples=15, deadline=None)
@given(values=st.fixed_dictionaries({"num_beams": st.integers(4, 8)}, optional=VALUES))
def test_defaults_are_those_of_the_loaded_model(folder: Path, values: dict[str, Any]) -> None:
    defaults = read_generation_config(write(folder, values))
    assert_same(defaults, AutoModelForSeq2SeqLM.from_pretrained(folder))
    assert GenerationDefaults.model_validate_json(json.dumps(defaults.model_dump(mode="json"))) == defaults


def test_without_a_file_the_parameters_in_config_json_are_used(folder: Path) -> None:
    checkpoint = write(folder, {})
    (folder / "generation_config.json").unlink()
    path = folder / "config.json"
    before = path.read_text()
    old = {"num_beams": 3, "max_length": 33, "bad_words_ids": [[5]], "eos_token_id": 7, "min_length": None}
    try:
        path.write_text(json.dumps({**json.loads(before), **old, "task_specific_params": {"a": {}}}))
        defaults = read_generation_config(checkpoint)
        assert_same(defaults, AutoModelForSeq2SeqLM.from_pretrained(folder))
    finally:
        path.write_text(before)
    assert (defaults.num_beams, defaults.max_length, defaults.eos_token_id) == (3, 33, (7,))
    assert resolve(defaults, LIMITS, 9, {}, None).max_length == 33


EFFECTIVE: dict[str, Any] = {
    **dict.fromkeys(UNSUPPORTED, 3),
    "is_assistant": True,
    "low_memory": True,
    "remove_invalid_values": True,
    "token_healing": True,
    "use_mtp": True,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_ensemble_weight": 0.5,
    "stop_strings": ["a"],
    "exponential_decay_length_penalty": [3, 1.5],
    "watermarking_config": {"greenlist_ratio": 0.5},
    "force_words_ids": [[3]],
}


@pytest.mark.filterwarnings("ignore:Passing ContinuousBatchingConfig")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_parameters_are_named_in_the_error(folder: Path, name: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=f"sets {name} = .*does not support"):
        read_generation_config(write(folder, {name: EFFECTIVE[name]}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forced_decoder_ids": [[1, 2]]}, "sets forced_decoder_ids = "),
        ({"max_position_embeddings": 8}, "sets max_position_embeddings = 8"),
        ({"do_sample": True, "num_beams": 2}, "do_sample = True with num_beams = 2"),
        ({"sequence_bias": [[[1], float("-inf")]]}, "the checkpoint's sequence_bias is .*finite"),
        ({"temperature": float("nan")}, "the checkpoint's temperature is nan"),
        ({"max_length": 2.5}, "the checkpoint's max_length is 2.5"),
        ({"top_k": True}, "the checkpoint's top_k is True"),
        ({"eos_token_id": -1}, r"the checkpoint's eos_token_id is \(-1,\)"),
        ({"forced_bos_token_id": "en"}, "the checkpoint's forced_bos_token_id is 'en'"),
        ({"bad_words_ids": [3]}, "the checkpoint's bad_words_ids is"),
    ],
)
def test_invalid_values_are_rejected(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=message):
        read_generation_config(write(folder, values))


def test_a_file_that_transformers_rejects_is_an_error_and_not_ignored(folder: Path) -> None:
    for text in ("{", '{"max_new_tokens": 0}', '{"num_return_sequences": 3}', "[1]"):
        checkpoint = write(folder, {})
        (folder / "generation_config.json").write_text(text)
        with pytest.raises(CheckpointError, match="transformers cannot read generation_config.json"):
            read_generation_config(checkpoint)


def test_the_defaults_are_exactly_the_supported_parameters() -> None:
    assert set(SUPPORTED) - {"seed"} == set(GenerationDefaults.model_fields) - {"max_position_embeddings"}
    with pytest.raises(ValidationError):
        GenerationDefaults.model_validate_json('{"max_lengths": 3}')
    with pytest.raises(ValidationError):
        GenerationDefaults.model_validate_json('{"max_length": 3.5}')
