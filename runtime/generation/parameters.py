"""From the checkpoint's defaults and the keyword arguments of one call to its ``SamplingParams``.

What a name means, which of two wins and what None does is Hugging Face's, as ``generate`` treats a batch of
one. Whole numbers are taken wherever a number is, also where Hugging Face insists on a float.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from reprlib import repr as shortened
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from precast.artifacts.generation_defaults import (
    UNSUPPORTED,
    WITHOUT_EFFECT,
    GenerationDefaults,
    asks_for_nothing,
)
from precast.graphs.sampling import EOS_TOKENS, MAX_BEAMS, MAX_NGRAM
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import InputTooLongError, OptionError
from precast.runtime.generation.sampling_params import Mode, SamplingParams
from precast.runtime.generation.token_bias import make_token_biases
from precast.runtime.generation.validation import Ids, Values, wrong

SUPPORTED: tuple[str, ...] = (
    *(name for name in GenerationDefaults.model_fields if name != "max_position_embeddings"),
    "seed",
)
"""The keyword arguments that a call may use."""

_DEFAULT_NEW_TOKENS = 20
_DEFAULT_TOP_K = 50
_SEED_BITS = 62
"""Of a drawn seed: room is left for the rows that count on from it."""

_ARGUMENTS = frozenset(
    {
        "assistant_model", "assistant_tokenizer", "attention_mask", "custom_generate",
        "decoder_attention_mask", "decoder_input_ids", "decoder_inputs_embeds", "encoder_outputs",
        "generation_config", "input_ids", "inputs", "inputs_embeds", "logits_processor",
        "negative_prompt_attention_mask", "negative_prompt_ids", "past_key_values",
        "prefix_allowed_tokens_fn", "stopping_criteria", "streamer", "synced_gpus", "tokenizer",
        "trust_remote_code",
    }
)  # fmt: skip
"""What else Hugging Face's ``generate`` takes."""
_REFUSED: Mapping[str, bool | float | str | None] = MappingProxyType(
    {**dict.fromkeys(_ARGUMENTS), **WITHOUT_EFFECT, **UNSUPPORTED}
)


def resolve(
    defaults: GenerationDefaults,
    limits: GenerateLimits,
    vocab_size: int,
    given: Mapping[str, Any],
    prefix: Sequence[int] | None,
) -> SamplingParams:
    """What one call asks for.

    Args:
        defaults: of the checkpoint.
        limits: of the artifact. What a default asks for beyond ``max_target_length`` is cut off there.
        vocab_size: token ids are below it.
        given: keyword arguments in Hugging Face's names, and ``seed``. None takes a default back.
        prefix: token ids that the target shall begin with; the start token is put before them unless they
            begin with it.

    Raises:
        OptionError: an unknown or unsupported name, a value of a wrong type or range, values that exclude
            each other, or more than the artifact has room for.
        InputTooLongError: the prefix leaves no room for one token.
    """
    if given or prefix is not None:
        return _resolve(defaults, limits, vocab_size, given, prefix)
    plan = _default_plan(defaults, limits, vocab_size)
    return replace(plan, seed=secrets.randbits(_SEED_BITS)) if plan.mode == "multinomial" else plan


@lru_cache(maxsize=64)
def _default_plan(defaults: GenerationDefaults, limits: GenerateLimits, vocab_size: int) -> SamplingParams:
    return _resolve(defaults, limits, vocab_size, {}, None)


@lru_cache(maxsize=64)
def _known(defaults: GenerationDefaults) -> dict[str, Any]:
    """What holds where a call says nothing."""
    return {"top_k": _DEFAULT_TOP_K, **{name: value for name, value in defaults if value is not None}}


def _resolve(
    defaults: GenerationDefaults,
    limits: GenerateLimits,
    vocab_size: int,
    given: Mapping[str, Any],
    prefix: Sequence[int] | None,
) -> SamplingParams:
    _refuse_unsupported(given)
    values = Values({**_known(defaults), **given}, vocab_size)
    begin = _begin(values, prefix)
    max_length = _max_length(values, given, limits, len(begin))
    mode, beams, returned = _mode(values, limits)
    eos, forced = _few(values, "eos_token_id"), _forced(values)
    values.integer("pad_token_id", -(1 << 31))
    return SamplingParams(
        mode=mode,
        num_beams=beams,
        num_return_sequences=returned,
        prefix=begin,
        max_length=max_length,
        eos_token_ids=eos,
        token_biases=make_token_biases(values, eos, len(begin), max_length, forced),
        repetition_penalty=values.positive("repetition_penalty", 1.0),
        encoder_repetition_penalty=1 / values.positive("encoder_repetition_penalty", 1.0),
        no_repeat_ngram_size=_ngram(values, "no_repeat_ngram_size", max_length - 1),
        encoder_no_repeat_ngram_size=_ngram(
            values, "encoder_no_repeat_ngram_size", min(max_length, limits.max_source_length)
        ),
        forced_bos_token_id=next(iter(forced["forced_bos_token_id"]), None),
        forced_eos_token_ids=forced["forced_eos_token_id"],
        **_sampling(values, mode, returned),
        length_penalty=values.number("length_penalty", 1.0),
        early_stopping=_early_stopping(values),
        renormalize_logits=values.flag("renormalize_logits"),
    )


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in SUPPORTED:
            continue
        if name not in _REFUSED:
            near = get_close_matches(str(name), SUPPORTED, 1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(SUPPORTED)}"
            raise OptionError(f"{name} is no parameter of generation; {advice}")
        if not asks_for_nothing(value, _REFUSED[name]):
            raise OptionError(f"{name} is not supported; leave it out (found {shortened(value)})")


def _begin(values: Values, prefix: Sequence[int] | None) -> Ids:
    """The start token and the prefix."""
    start, bos = values.token("decoder_start_token_id"), values.token("bos_token_id")
    start = bos if start is None else start
    if start is None:
        raise OptionError(
            "decoder_start_token_id or bos_token_id must be given: the checkpoint names neither, and a "
            "target begins with one"
        )
    written = () if prefix is None else values.ids("the prefix", prefix)
    return written if written[:1] == (start,) else (start, *written)


def _max_length(values: Values, given: Mapping[str, Any], limits: GenerateLimits, written: int) -> int:
    """Positions of a row; ``max_new_tokens`` wins over ``max_length``."""
    limit = limits.max_target_length
    if written >= limit:
        raise InputTooLongError(
            f"the target begins with {written} tokens, start token included; the artifact has room for "
            f"{limit} and one must be generated: give at most {limit - 1}"
        )
    new, total = values.integer("max_new_tokens", 1), values.integer("max_length", 0)
    if new is not None:
        name, length = "max_new_tokens", written + new
    elif total is not None:
        name, length = "max_length", total
    else:
        name, length = "the default length", written + _DEFAULT_NEW_TOKENS
        positions = values.given.get("max_position_embeddings")
        length = length if positions is None else min(length, positions)
    if length <= written:
        raise OptionError(
            f"the target begins with {written} tokens, start token included, and {name} ends it at "
            f"{length}; give max_new_tokens"
        )
    if length > limit and given.get(name) is not None:
        raise OptionError(
            f"{name} = {shortened(given[name])} needs {shortened(length)} positions, start token and prefix "
            f"included; the artifact has {limit}: ask for less, or compile it with a larger target length"
        )
    return min(length, limit)


def _mode(values: Values, limits: GenerateLimits) -> tuple[Mode, int, int]:
    """How tokens are chosen, how many beams, and how many sequences are returned."""
    beams, returned = values.integer("num_beams", 1) or 1, values.integer("num_return_sequences", 1) or 1
    sampled = values.flag("do_sample")
    mode: Mode = "beam" if beams > 1 else "multinomial" if sampled else "greedy"
    if beams > 1 and sampled:
        raise OptionError(
            f"do_sample = True with num_beams = {beams} is not supported; give num_beams=1 to sample, or "
            f"do_sample=False to search"
        )
    if mode == "greedy" and returned > 1:
        raise OptionError(
            f"num_return_sequences must be 1 for greedy search, found {returned}; give do_sample=True or "
            f"num_beams of at least as many"
        )
    if mode == "beam" and returned > beams:
        raise OptionError(f"num_return_sequences must be at most num_beams = {beams}, found {returned}")
    if beams > MAX_BEAMS:
        raise OptionError(f"num_beams must be at most {MAX_BEAMS}, found {shortened(beams)}")
    if max(beams, returned) > limits.max_num_seqs:
        name = "num_beams" if mode == "beam" else "num_return_sequences"
        raise OptionError(
            f"{name} = {shortened(max(beams, returned))} needs as many rows, the artifact has "
            f"{limits.max_num_seqs}; ask for fewer, or compile it with more"
        )
    return mode, beams, returned


def _few(values: Values, name: str) -> Ids:
    tokens = values.tokens(name) or ()
    if len(tokens) > EOS_TOKENS:
        raise OptionError(f"{name} must name at most {EOS_TOKENS} tokens, found {len(tokens)}")
    return tokens


def _forced(values: Values) -> dict[str, Ids]:
    """The tokens that rows must have at their beginning and at their end, by the parameter's name."""
    bos, eos = values.token("forced_bos_token_id"), _few(values, "forced_eos_token_id")
    if not eos and values.given.get("forced_eos_token_id") is not None:
        raise wrong("forced_eos_token_id", "a token id or a list of at least one", [])
    return {"forced_bos_token_id": () if bos is None else (bos,), "forced_eos_token_id": eos}


def _ngram(values: Values, name: str, longest: int) -> int:
    """The size, 0 where there is none or no n-gram of that size can occur."""
    size = values.integer(name, 0) or 0
    if size > longest:
        return 0
    if size > MAX_NGRAM:
        raise OptionError(f"{name} must be at most {MAX_NGRAM}, found {size}")
    return size


def _sampling(values: Values, mode: Mode, returned: int) -> dict[str, Any]:
    """The parameters that act on drawn tokens alone; elsewhere any number will do, as in Hugging Face."""
    numbers = {
        "temperature": values.number("temperature", 1.0),
        "top_p": min(values.number("top_p", 1.0), 1.0),
        "min_p": values.number("min_p", 0.0),
        "typical_p": min(values.number("typical_p", 1.0), 1.0),
    }
    top_k, seed = values.integer("top_k", 0) or 0, values.integer("seed", 0)
    if seed is not None and seed + returned > 1 << 63:
        raise wrong("seed", "below 2**63, also for the last of the sequences", seed)
    if mode != "multinomial":
        return {}
    for name in ("temperature", "typical_p"):
        values.positive(name, 1.0)
    for name in ("top_p", "min_p"):
        if not 0 <= numbers[name] <= 1:
            raise wrong(name, "a number from 0 to 1", numbers[name])
    return {
        **numbers,
        "top_k": top_k if top_k < values.vocab_size else 0,
        "seed": secrets.randbits(_SEED_BITS) if seed is None else seed,
    }


def _early_stopping(values: Values) -> bool | Literal["never"]:
    value = values.given.get("early_stopping")
    if isinstance(value, str) and value == "never":
        return "never"
    if value is not None and not isinstance(value, bool | np.bool_):
        raise wrong("early_stopping", "True, False or 'never'", value)
    return bool(value)
