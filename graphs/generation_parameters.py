"""The parameters of generation: one table, from which everything that knows them by name is derived.

Derived are the state buffers and the inputs of ``logits_processors`` and ``sample.*`` (``graphs.sampling``),
the defaults in the manifest (``artifacts.generation_defaults``), the checks of a call and the state of a
sequence (``runtime.generation``), the options of ``precast generate`` and the table in ``artifacts/SPEC.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from precast.graphs.graph_names import GraphName

EOS_TOKENS = 4
"""Most end tokens of one request; lists of them are padded with -1 in the state."""

EARLY_STOPPING: Mapping[bool | str, int] = MappingProxyType({False: 0, True: 1, "never": 2})
"""Values of the ``early_stopping`` buffer."""

SMALLEST = 2.0**-126
"""The smallest normal fp32 number: graphs flush smaller ones to zero."""

Kind = Literal["integer", "number", "flag", "early_stopping", "token", "tokens", "sequences", "biases"]
"""``token`` is a token id, ``tokens`` a list of them, ``sequences`` a list of such lists, and ``biases``
pairs of such a list and a number. The others are scalars."""

SCALARS: frozenset[Kind] = frozenset({"integer", "number", "flag", "early_stopping", "token"})
"""Kinds that one value on a command line can express."""

Encode = Callable[[Any, int], Any]
"""From a request's value and its number of sequences to what broadcasts to ``[sequences, *shape]``."""


@dataclass(frozen=True)
class Check:
    """A range of values.

    Attributes:
        expected: Completes "must be ..." in an error message.
        holds: Whether a value of the right type is in the range.
    """

    expected: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Param:
    """One keyword argument of ``generate``, under the name that Hugging Face's GenerationConfig gives it.

    Attributes:
        name: The keyword, the key in the manifest's defaults, and the name of the state buffer.
        kind: Type of its values.
        help: One sentence for ``precast generate --help`` and SPEC.md.
        neutral: The value without effect. None in a call selects it.
        default: The value if neither the call nor the checkpoint gives one; ``neutral`` if None.
        check: Range of the values. For a number it holds only where ``graph`` runs, as in Hugging Face.
        graph: The graph that reads the state buffer. A parameter of ``logits_processors`` other than
            ``neutral`` makes a request run that graph. None if every sampling graph may read it.
        dtype: Element type of the state buffer; None if the host alone uses the parameter.
        shape: Dimensions of one sequence's value in the state buffer.
        encode: How a value is written into the state buffer.
        in_checkpoint: Whether ``generation_config.json`` may set it.
    """

    name: str
    kind: Kind
    help: str
    neutral: Any = None
    default: Any = None
    check: Check | None = None
    graph: GraphName | None = None
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    encode: Encode = lambda value, _: value
    in_checkpoint: bool = True


def _at_least(least: int) -> Check:
    return Check(f"a whole number of at least {least}", lambda value: value >= least)


_NOT_NEGATIVE = _at_least(0)
_POSITIVE = Check("a number above 0", lambda value: value >= SMALLEST)
_PROBABILITY = Check("a number from 0 to 1", lambda value: 0 <= value <= 1)
# Hugging Face ignores a top_p above 1 instead of refusing it.
_TOP_P = Check("a number from 0 to 1", lambda value: value >= 0)
_NOT_EMPTY = Check("a token id or a list of at least one", bool)


def _or_none(token: int | None, _: int) -> int:
    return -1 if token is None else token


def _padded(tokens: tuple[int, ...], _: int) -> list[int]:
    return [*tokens, *[-1] * (EOS_TOKENS - len(tokens))]


def _inverse_on_the_first(penalty: float, sequences: int) -> list[float]:
    """Return the inverse for the first sequence, 1 for others: Hugging Face's processor affects one beam."""
    return [1 / penalty] + [1.0] * (sequences - 1)


def _counted_up(seed: int, sequences: int) -> list[int]:
    return [seed + index for index in range(sequences)]


_PROCESSORS, _MULTINOMIAL, _BEAM = (
    GraphName.LOGITS_PROCESSORS,
    GraphName.SAMPLE_MULTINOMIAL,
    GraphName.SAMPLE_BEAM,
)

PARAMS: tuple[Param, ...] = (
    Param("max_length", "integer", "Most tokens of a target, start token and prefix included.",
          check=_NOT_NEGATIVE, dtype="int32"),
    Param("max_new_tokens", "integer", "Most tokens to generate.", check=_at_least(1)),
    Param("min_length", "integer", "Fewest tokens of a target, start token and prefix included.",
          neutral=0, check=_NOT_NEGATIVE),
    Param("min_new_tokens", "integer", "Fewest tokens to generate.", check=_NOT_NEGATIVE),
    Param("early_stopping", "early_stopping", "When beam search ends: true, false or never.",
          neutral=False, graph=_BEAM, dtype="int32", encode=lambda value, _: EARLY_STOPPING[value]),
    Param("do_sample", "flag", "Sample tokens at random instead of taking the best.", neutral=False),
    Param("num_beams", "integer", "Beams of beam search; 1 for none.", neutral=1, check=_at_least(1)),
    Param("num_return_sequences", "integer", "Sequences to return: beams, or independent samples.",
          neutral=1, check=_at_least(1)),
    Param("temperature", "number", "Divides the logits before sampling.",
          neutral=1.0, check=_POSITIVE, graph=_MULTINOMIAL, dtype="float32"),
    Param("top_k", "integer", "Sample among the k most likely tokens; 0 for all.",
          neutral=0, default=50, check=_NOT_NEGATIVE, graph=_MULTINOMIAL, dtype="int32"),
    Param("top_p", "number", "Sample among the most likely tokens with this total probability.",
          neutral=1.0, check=_TOP_P, graph=_MULTINOMIAL, dtype="float32"),
    Param("min_p", "number", "Sample among tokens with at least this share of the best one's probability.",
          neutral=0.0, check=_PROBABILITY, graph=_MULTINOMIAL, dtype="float32"),
    Param("typical_p", "number", "Sample among the most typical tokens with this total probability.",
          neutral=1.0, check=_POSITIVE, graph=_MULTINOMIAL, dtype="float32"),
    Param("repetition_penalty", "number", "Divides the scores of tokens that the target already has.",
          neutral=1.0, check=_POSITIVE, graph=_PROCESSORS, dtype="float32"),
    Param("encoder_repetition_penalty", "number", "Multiplies the scores of tokens that the source has.",
          neutral=1.0, check=_POSITIVE, graph=_PROCESSORS, dtype="float32", encode=_inverse_on_the_first),
    Param("length_penalty", "number", "Exponent of the length that divides a beam's score.",
          neutral=1.0, graph=_BEAM, dtype="float32"),
    Param("no_repeat_ngram_size", "integer", "No n-gram of this size occurs twice; 0 for no limit.",
          neutral=0, check=_NOT_NEGATIVE, graph=_PROCESSORS, dtype="int32"),
    Param("encoder_no_repeat_ngram_size", "integer",
          "No n-gram of this size is copied from the source; 0 for no limit.",
          neutral=0, check=_NOT_NEGATIVE, graph=_PROCESSORS, dtype="int32"),
    Param("bad_words_ids", "sequences", "Token sequences that are never generated.", neutral=()),
    Param("sequence_bias", "biases", "Numbers added to the score of a sequence's last token.", neutral=()),
    Param("renormalize_logits", "flag", "Normalize scores again after all processors.",
          neutral=False, graph=_BEAM, dtype="int32", encode=lambda value, _: int(value)),
    Param("forced_bos_token_id", "token", "The token behind the start token.",
          graph=_PROCESSORS, dtype="int32", encode=_or_none),
    Param("forced_eos_token_id", "tokens", "The last token of a target that reaches its maximum length.",
          neutral=(), check=_NOT_EMPTY, graph=_PROCESSORS, dtype="int32",
          shape=(EOS_TOKENS,), encode=_padded),
    Param("suppress_tokens", "tokens", "Tokens that are never generated.", neutral=()),
    Param("begin_suppress_tokens", "tokens", "Tokens that are not generated first.", neutral=()),
    Param("bos_token_id", "token", "Start token of the target if decoder_start_token_id is not set."),
    Param("eos_token_id", "tokens", "Tokens that end a target.",
          neutral=(), dtype="int32", shape=(EOS_TOKENS,), encode=_padded),
    Param("pad_token_id", "integer", "No effect: outputs are not padded.", check=_at_least(-(1 << 31))),
    Param("decoder_start_token_id", "token", "Start token of the target."),
    Param("seed", "integer", "Seed of the first sampled sequence; the next ones count up from it.",
          neutral=0, check=_NOT_NEGATIVE, graph=_MULTINOMIAL, dtype="int64", encode=_counted_up,
          in_checkpoint=False),
)  # fmt: skip
"""All parameters. One more is one more row, and for a logits rule a function in ``compiler.sampling``."""

BY_NAME: Mapping[str, Param] = MappingProxyType({param.name: param for param in PARAMS})


def params_of(graph: GraphName) -> tuple[Param, ...]:
    """Return the parameters that belong to one graph, in the order of the table."""
    return tuple(param for param in PARAMS if param.graph is graph)
