"""The checkpoint's own parameters of generation, as the manifest holds them, and those that precast lacks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from precast.artifacts.base import Number, StrictModel, TokenId, TokenIds


class GenerationDefaults(StrictModel):
    """``generation_config.json`` as far as precast serves it, in Hugging Face's names.

    None is what the checkpoint does not say; Hugging Face's global default holds there. End tokens are
    always a tuple, and a bias is a pair of token ids and number.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    repetition_penalty: Number | None = None
    encoder_repetition_penalty: Number | None = None
    length_penalty: Number | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    bad_words_ids: tuple[TokenIds, ...] | None = None
    sequence_bias: tuple[tuple[TokenIds, Number], ...] | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: TokenIds | None = None
    suppress_tokens: TokenIds | None = None
    begin_suppress_tokens: TokenIds | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenIds | None = None
    pad_token_id: int | None = None
    """Of no effect: answers are not padded."""
    decoder_start_token_id: TokenId | None = None
    max_position_embeddings: int | None = None
    """Of the model's configuration: it bounds the length where nothing else says one."""


UNSUPPORTED: Mapping[str, bool | float | str | None] = MappingProxyType(
    {
        "assistant_confidence_threshold": 0.4,
        "assistant_early_exit": None,
        "assistant_ensemble_weight": None,
        "assistant_lookbehind": 10,
        "constraints": None,
        "continuous_batching_config": None,
        "diversity_penalty": 0.0,
        "dola_layers": None,
        "epsilon_cutoff": 0.0,
        "eta_cutoff": 0.0,
        "exponential_decay_length_penalty": None,
        "force_words_ids": None,
        "guidance_scale": 1.0,
        "is_assistant": False,
        "low_memory": False,
        "max_matching_ngram_size": None,
        "max_time": None,
        "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant",
        "num_beam_groups": 1,
        "penalty_alpha": 0.0,
        "prompt_lookup_num_tokens": None,
        "remove_invalid_values": False,
        "speculation_type": None,
        "stop_strings": None,
        "target_lookbehind": 10,
        "token_healing": False,
        "top_h": None,
        "use_mtp": False,
        "watermarking_config": None,
    }
)
"""Hugging Face's parameters of generation that precast lacks; each with the value that, besides None, asks
for nothing."""

WITHOUT_EFFECT: Mapping[str, bool | None] = MappingProxyType(
    {
        "cache_config": None,
        "cache_implementation": None,
        "compile_config": None,
        "disable_compile": None,
        "max_cache_len": None,
        "output_attentions": False,
        "output_hidden_states": False,
        "output_logits": False,
        "output_scores": False,
        "prefill_chunk_size": None,
        "return_dict_in_generate": False,
        "use_cache": True,
    }
)
"""Those that do not change which tokens are chosen. A checkpoint may set them; a call that does would expect
something of them."""


def asks_for_nothing(value: object, neutral: bool | float | str | None) -> bool:
    """Whether a parameter of ``UNSUPPORTED`` or ``WITHOUT_EFFECT`` is as good as not given."""
    plain = isinstance(value, bool | int | float | str)  # an array has no single answer to ``==``
    return value is None or (plain and neutral is not None and value == neutral)
