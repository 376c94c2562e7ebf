"""What a family file provides, and the helpers with which it names weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from precast.compiler.families.config import ConfigReader
from precast.compiler.models.spec import Classifier, Decoder, Embeddings, Stack

WeightNames = Mapping[str, tuple[str, ...]]
"""Parameter of ours: the source weights that make it, joined along their first dimension."""


@dataclass(frozen=True)
class Backbone:
    """A model without the head of a task."""

    hidden_size: int
    embeddings: Embeddings
    encoder: Stack


@dataclass(frozen=True)
class Head:
    """A classification head, and where its weights come from."""

    classifier: Classifier
    weights: WeightNames


@dataclass(frozen=True)
class TiedEmbeddings:
    """What the decoder of a checkpoint has to itself. Copies of a tied table are not its own."""

    tokens: bool
    """A token table other than the encoder's."""
    head: bool
    """A table of the head other than that of the decoder's tokens."""
    bias: bool
    """A bias of the logits."""


@dataclass(frozen=True)
class Generation:
    """How the encoder-decoders of a family become ours."""

    architectures: tuple[str, ...]
    """Hugging Face's classes that generate."""
    decoder: Callable[[ConfigReader, TiedEmbeddings], Decoder]
    """From the configuration, and what the checkpoint holds."""
    weights: Callable[[Decoder], WeightNames]
    """Of the decoder; those of the encoder are the backbone's."""
    head_bias: str | None = None
    """The bias of the logits, stored as a matrix of one row; HF takes one that is missing for zeros."""
    dropped: tuple[str, ...] = ()
    """As ``Family.dropped``."""


@dataclass(frozen=True)
class Family:
    """One architecture: how its configuration and its weights become ours."""

    name: str
    model_types: tuple[str, ...]
    prefix: str
    """What full-model checkpoints put before the backbone's weight names, without the dot."""
    backbone: Callable[[ConfigReader], Backbone]
    weights: Callable[[Backbone], WeightNames]
    sequence_head: Callable[[ConfigReader], Head] | None = None
    token_head: Callable[[ConfigReader], Head] | None = None
    dropped: tuple[str, ...] = ()
    """Patterns (fnmatch) of source weights that may go unused; the manifest lists those that did."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Source weight: the one that is read in its place where a checkpoint lacks it. Which of two tied
    weights a checkpoint stores differs."""
    generation: Generation | None = None
    overflows_fp16: bool = False
    """Whether hidden states of trained checkpoints leave the range of fp16, as T5 and Gemma, which were
    trained in bf16. HF clamps T5 and keeps some layers in fp32; we ask for bf16 instead."""


def linear(target: str, *sources: str) -> dict[str, tuple[str, ...]]:
    """A linear layer's weight and bias; several sources are stacked (query, key, value)."""
    return {
        f"{target}.{part}": tuple(f"{source}.{part}" for source in sources) for part in ("weight", "bias")
    }


def norm(target: str, source: str) -> dict[str, tuple[str, ...]]:
    """A norm's weight and, where it has one, bias."""
    return linear(target, source)


def table(target: str, source: str) -> dict[str, tuple[str, ...]]:
    """An embedding table."""
    return {f"{target}.weight": (f"{source}.weight",)}


def num_labels(config: ConfigReader) -> int:
    return int(config.source.num_labels or 0)
