"""The parameters of one request: the checkpoint's defaults and a call's arguments, resolved and checked.

Names, precedence and the meaning of None are those of Hugging Face's ``generate`` with a batch of one.
Integers are accepted for every number, even where Hugging Face requires a float.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from reprlib import repr as shortened
from types import MappingProxyType
from typing import Any, Literal

from precast.artifacts.generation_defaults import (
    UNSUPPORTED,
    WITHOUT_EFFECT,
    GenerationDefaults,
    has_no_effect,
)
from precast.graphs.generation_parameters import BY_NAME, PARAMS, params_of
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import MAX_BEAMS, MAX_NGRAM
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import InputTooLongError, OptionError
from precast.runtime.generation.token_bias import TokenBias, make_token_biases
from precast.runtime.generation.validation import Ids, check_ids, check_range, check_type, wrong

Mode = Literal["greedy", "multinomial", "beam"]

SUPPORTED: tuple[str, ...] = tuple(BY_NAME)
"""Names of the supported keyword arguments."""

_DEFAULT_NEW_TOKENS = 20
_SEED_BITS = 62
"""Bits of a random seed; the sequences of a request count up from it."""
_NGRAMS = ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size")

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
"""Arguments of Hugging Face's ``generate`` besides the fields of its GenerationConfig."""
_REFUSED: Mapping[str, bool | float | str | None] = MappingProxyType(
    {**dict.fromkeys(_ARGUMENTS), **WITHOUT_EFFECT, **UNSUPPORTED}
)


@dataclass(frozen=True)
class SamplingParams:
    """The parameters of one request. Lengths count tokens of the target, start token and prefix included.

    ``params[name]`` is the value of any parameter that has a state buffer, such as ``params["top_k"]``.

    Attributes:
        mode: How tokens are sampled.
        num_beams: Number of beams; 1 without beam search.
        num_return_sequences: Number of sequences in the output.
        prefix: The start token, and the tokens that the target begins with.
        max_length: Most tokens of the target.
        eos_token_ids: Tokens that end a target.
        token_biases: Biases of the scores of single tokens.
        values: Other parameters with a state buffer by name, without neutral ones.
    """

    mode: Mode
    num_beams: int
    num_return_sequences: int
    prefix: Ids
    max_length: int
    eos_token_ids: Ids
    token_biases: tuple[TokenBias, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __getitem__(self, name: str) -> Any:
        if name == "max_length":
            return self.max_length
        if name == "eos_token_id":
            return self.eos_token_ids
        return self.values.get(name, BY_NAME[name].neutral)

    @property
    def num_seqs(self) -> int:
        """Sequences of decoder state that the request needs."""
        return self.num_beams if self.mode == "beam" else self.num_return_sequences

    @property
    def needs_processing(self) -> bool:
        """Whether the request needs the graph ``logits_processors``; beams need its log-probabilities."""
        return (
            self.mode == "beam"
            or bool(self.token_biases)
            or any(self[param.name] != param.neutral for param in params_of(GraphName.LOGITS_PROCESSORS))
        )


def resolve(
    defaults: GenerationDefaults,
    limits: GenerateLimits,
    vocab_size: int,
    given: Mapping[str, Any],
    prefix: Sequence[int] | None,
) -> SamplingParams:
    """Return the parameters of a call.

    Args:
        defaults: The checkpoint's parameters.
        limits: Limits of the artifact. A default length beyond ``max_target_length`` is cut off there.
        vocab_size: Token ids are below it.
        given: Keyword arguments in Hugging Face's names, and ``seed``. None cancels a default.
        prefix: Token ids that the target begins with; the start token is prepended unless they begin with
            it.

    Raises:
        OptionError: A name is unknown or not supported, a value has a wrong type or is out of range, values
            contradict each other or exceed the artifact's limits.
        InputTooLongError: The prefix leaves no room for a generated token.
    """
    if given or prefix is not None:
        return _resolve(defaults, limits, vocab_size, given, prefix)
    params = _resolved_defaults(defaults, limits, vocab_size)
    if params.mode != "multinomial":
        return params
    return replace(params, values={**params.values, "seed": secrets.randbits(_SEED_BITS)})


@lru_cache(maxsize=64)
def _resolved_defaults(
    defaults: GenerationDefaults, limits: GenerateLimits, vocab_size: int
) -> SamplingParams:
    return _resolve(defaults, limits, vocab_size, {}, None)


@lru_cache(maxsize=64)
def _values_without_call(defaults: GenerationDefaults) -> Mapping[str, Any]:
    hugging_face = {param.name: param.default for param in PARAMS if param.default is not None}
    return {**hugging_face, **{name: value for name, value in defaults if value is not None}}


def _resolve(
    defaults: GenerationDefaults,
    limits: GenerateLimits,
    vocab_size: int,
    given: Mapping[str, Any],
    prefix: Sequence[int] | None,
) -> SamplingParams:
    _refuse_unsupported(given)
    stated = {**_values_without_call(defaults), **given}
    values = {param.name: check_type(param, stated.get(param.name), vocab_size) for param in PARAMS}
    begin = _begin(values, prefix, vocab_size)
    max_length = _max_length(values, given, limits, len(begin), defaults.max_position_embeddings)
    mode, beams, returned = _mode(values, limits)
    if values["seed"] + returned > 1 << 63:
        raise wrong("seed", "below 2**63, also for the last of the sequences", values["seed"])
    if mode == "multinomial" and stated.get("seed") is None:
        values["seed"] = secrets.randbits(_SEED_BITS)
    if values["top_k"] >= vocab_size:
        values["top_k"] = 0
    for name, longest in zip(
        _NGRAMS, (max_length - 1, min(max_length, limits.max_source_length)), strict=True
    ):
        values[name] = _possible_ngram(name, values[name], longest)
    return SamplingParams(
        mode=mode,
        num_beams=beams,
        num_return_sequences=returned,
        prefix=begin,
        max_length=max_length,
        eos_token_ids=values["eos_token_id"],
        token_biases=make_token_biases(values, len(begin), max_length),
        values=_state_values(values, mode),
    )


def _refuse_unsupported(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in BY_NAME:
            continue
        if name not in _REFUSED:
            near = get_close_matches(str(name), SUPPORTED, 1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(SUPPORTED)}"
            raise OptionError(f"{name} is no parameter of generation; {advice}")
        if not has_no_effect(value, _REFUSED[name]):
            raise OptionError(f"{name} is not supported; leave it out (found {shortened(value)})")


def _begin(values: Mapping[str, Any], prefix: Sequence[int] | None, vocab_size: int) -> Ids:
    """Return the start token and the prefix."""
    start = values["decoder_start_token_id"]
    start = values["bos_token_id"] if start is None else start
    if start is None:
        raise OptionError(
            "decoder_start_token_id or bos_token_id must be given: the checkpoint names neither, and a "
            "target begins with one"
        )
    tokens = () if prefix is None else check_ids("the prefix", prefix, vocab_size)
    return tokens if tokens[:1] == (start,) else (start, *tokens)


def _max_length(
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    limits: GenerateLimits,
    written: int,
    max_positions: int | None,
) -> int:
    """Return the most tokens of the target; ``max_new_tokens`` takes precedence over ``max_length``."""
    limit = limits.max_target_length
    if written >= limit:
        raise InputTooLongError(
            f"the target begins with {written} tokens, start token included; the artifact has room for "
            f"{limit} and one must be generated: give at most {limit - 1}"
        )
    length: int
    new, total = values["max_new_tokens"], values["max_length"]
    if new is not None:
        name, length = "max_new_tokens", written + new
    elif total is not None:
        name, length = "max_length", total
    else:
        name, length = "the default length", written + _DEFAULT_NEW_TOKENS
        length = length if max_positions is None else min(length, max_positions)
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


def _mode(values: Mapping[str, Any], limits: GenerateLimits) -> tuple[Mode, int, int]:
    """Return the sampling mode, the number of beams and the number of returned sequences."""
    beams, returned, sampled = values["num_beams"], values["num_return_sequences"], values["do_sample"]
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
            f"{name} = {shortened(max(beams, returned))} needs as many sequences, the artifact has "
            f"{limits.max_num_seqs}; ask for fewer, or compile it with a larger max_num_seqs"
        )
    return mode, beams, returned


def _possible_ngram(name: str, size: int, longest: int) -> int:
    """Return the size, or 0 if no n-gram of that size can occur."""
    if size > longest:
        return 0
    if size > MAX_NGRAM:
        raise OptionError(f"{name} must be at most {MAX_NGRAM}, found {size}")
    return size


def _state_values(values: Mapping[str, Any], mode: Mode) -> dict[str, Any]:
    """Return the parameters that are written to the state, without neutral ones.

    Parameters of sampling have no effect in other modes, where Hugging Face does not check their range.
    """
    kept = {}
    for param in PARAMS:
        value = values[param.name]
        if param.dtype is None or param.name in ("max_length", "eos_token_id") or value == param.neutral:
            continue
        if param.graph is GraphName.SAMPLE_MULTINOMIAL and mode != "multinomial":
            continue
        check_range(param, value)
        kept[param.name] = value
    return kept
