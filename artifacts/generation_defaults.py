"""A checkpoint's generation parameters in the manifest, and the ones that precast does not support."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import create_model

from precast.artifacts.base import Number, StrictModel, TokenId, TokenIds
from precast.graphs.generation_parameters import PARAMS, Kind

_TYPES: Mapping[Kind, Any] = {
    "integer": int,
    "number": Number,
    "flag": bool,
    "early_stopping": bool | Literal["never"],
    "token": TokenId,
    "tokens": TokenIds,
    "sequences": tuple[TokenIds, ...],
    "biases": tuple[tuple[TokenIds, Number], ...],
}
_FIELDS: Mapping[str, Any] = {
    param.name: (_TYPES[param.kind] | None, None) for param in PARAMS if param.in_checkpoint
}


_FromTable: Any = create_model("_FromTable", __base__=StrictModel, **_FIELDS)


class GenerationDefaults(_FromTable):  # type: ignore[misc]  # made at run time
    """``generation_config.json`` in Hugging Face's names: one field for each row of ``PARAMS`` that it may
    set.

    None if the checkpoint does not set a parameter; Hugging Face's global default applies then. End tokens
    are always a tuple, and a bias is a pair of token ids and number.
    """

    max_position_embeddings: int | None = None
    """From the model's configuration: bounds the length if nothing else does."""


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
"""Parameters that precast does not support, each with the value (besides None) that has no effect."""

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
"""Parameters that do not change which tokens are generated. A checkpoint may set them; a call may not,
because the caller would expect an effect."""


def has_no_effect(value: object, neutral: bool | float | str | None) -> bool:
    """Return whether the value of an unsupported parameter has no effect, so that it can be ignored."""
    plain = isinstance(value, bool | int | float | str)  # comparing an array gives no single truth value
    return value is None or (plain and neutral is not None and value == neutral)
