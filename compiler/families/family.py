"""The interface of a family file, and helpers that name weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from precast.compiler.families.config import ConfigReader
from precast.compiler.models.spec import ClassifierSpec, DecoderSpec, EmbeddingsSpec, StackSpec

WeightNames = Mapping[str, tuple[str, ...]]
"""The source weights of each parameter of a module, concatenated along their first dimension."""


@dataclass(frozen=True)
class Backbone:
    """An encoder without the head of a task."""

    hidden_size: int
    embeddings: EmbeddingsSpec
    encoder: StackSpec


@dataclass(frozen=True)
class Head:
    """A classification head and the names of its weights."""

    classifier: ClassifierSpec
    weights: WeightNames


@dataclass(frozen=True)
class UntiedWeights:
    """Which of the decoder's weights are its own; a stored copy of a tied table does not count.

    Attributes:
        tokens: whether the decoder's token table differs from the encoder's.
        head: whether the head's table differs from the decoder's token table.
        bias: whether the logits have a bias.
    """

    tokens: bool
    head: bool
    bias: bool


@dataclass(frozen=True)
class Generation:
    """How a family maps encoder-decoders that generate text.

    Attributes:
        architectures: names of Hugging Face's model classes.
        decoder: describes the decoder.
        weights: names the decoder's weights; the encoder's are named by ``Family.weights``.
        head_bias: source name of the bias of the logits, a matrix of one row. HF uses zeros if it is missing.
        dropped: patterns like ``Family.dropped``.
    """

    architectures: tuple[str, ...]
    decoder: Callable[[ConfigReader, UntiedWeights], DecoderSpec]
    weights: Callable[[DecoderSpec], WeightNames]
    head_bias: str | None = None
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """How the configurations and weights of one architecture map to specs and parameters.

    Attributes:
        name: recorded in the manifest.
        model_types: values of ``model_type`` in ``config.json``.
        prefix: of the backbone's weight names in checkpoints with a head, without the dot.
        backbone: describes the encoder.
        weights: names the encoder's weights.
        sequence_head: describes the head for ``classify`` and ``rerank``.
        token_head: describes the head for ``token-classify``.
        dropped: patterns (fnmatch) of source weights that may stay unused; the manifest lists those that did.
        tied: a source weight's substitute, used if the checkpoint lacks it: which of two tied weights is
            stored varies.
        generation: the decoder, for families of encoder-decoders.
        overflows_fp16: whether hidden states of trained checkpoints exceed the range of fp16, as those of T5
            and Gemma do, which were trained in bf16. HF clamps T5 and keeps some layers in fp32; precast
            requires bf16.
    """

    name: str
    model_types: tuple[str, ...]
    prefix: str
    backbone: Callable[[ConfigReader], Backbone]
    weights: Callable[[Backbone], WeightNames]
    sequence_head: Callable[[ConfigReader], Head] | None = None
    token_head: Callable[[ConfigReader], Head] | None = None
    dropped: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    generation: Generation | None = None
    overflows_fp16: bool = False


def linear(target: str, *sources: str) -> dict[str, tuple[str, ...]]:
    """Names a linear layer's weight and bias; several sources are stacked (query, key, value)."""
    return {
        f"{target}.{part}": tuple(f"{source}.{part}" for source in sources) for part in ("weight", "bias")
    }


def norm(target: str, source: str) -> dict[str, tuple[str, ...]]:
    """Names a norm's weight and bias."""
    return linear(target, source)


def table(target: str, source: str) -> dict[str, tuple[str, ...]]:
    """Names an embedding table."""
    return {f"{target}.weight": (f"{source}.weight",)}


def num_labels(config: ConfigReader) -> int:
    return int(config.source.num_labels or 0)
