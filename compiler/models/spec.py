"""Descriptions of models as data: a family builds them from ``config.json``, the modules compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precast.graphs.encode import Task

Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "tanh", "sigmoid", "identity"]
Window = tuple[int | None, int | None]
"""Number of visible keys to the left and to the right of a query; ``None`` is no limit.
Bidirectional is ``(None, None)``, causal ``(None, 0)``, as in FlashAttention's ``window_size``."""

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class NormSpec:
    """LayerNorm or RMSNorm; ``weight_offset`` is added to the stored weight (Gemma: 1)."""

    kind: Literal["layer", "rms"]
    eps: float
    bias: bool = True
    weight_offset: float = 0.0


@dataclass(frozen=True)
class RotarySpec:
    """Rotary positions.

    Attributes:
        inv_freq: one inverse frequency for each pair of a head, ``head_dim / 2`` in all.
        scaling: factor of cos and sin.
    """

    inv_freq: tuple[float, ...]
    scaling: float = 1.0


@dataclass(frozen=True)
class RelativeBiasSpec:
    """T5's bucketed relative position bias, added to the attention scores."""

    buckets: int
    max_distance: int
    rows: int
    """Rows of the stored table; at least ``buckets``."""
    bidirectional: bool = True


@dataclass(frozen=True)
class AttentionSpec:
    """Multi-head attention, grouped where ``kv_heads`` is below ``heads``."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    qkv_bias: bool = True
    out_bias: bool = True
    window: Window = (None, None)
    rotary: RotarySpec | None = None
    relative_bias: RelativeBiasSpec | None = None
    """A bias of this layer alone; one that all layers share belongs to the ``StackSpec``."""
    qk_norm: NormSpec | None = None


@dataclass(frozen=True)
class FeedForwardSpec:
    """``down(act(up(x)))``, or gated: ``down(act(first half of up(x)) * second half)``."""

    size: int
    activation: Activation
    gated: bool = False
    bias: bool = True


@dataclass(frozen=True)
class LayerSpec:
    """An encoder layer.

    Attributes:
        attention: its self-attention.
        feed_forward: its feed-forward block.
        norm: all of its norms.
        placement: ``post`` normalizes the residual sum, ``pre`` the input of each block, ``sandwich`` the
            input and the output of each block before the sum.
        attention_norm: whether there is a norm before the attention; ModernBERT's first layer has none.
    """

    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norm: NormSpec
    placement: Literal["post", "pre", "sandwich"]
    attention_norm: bool = True


@dataclass(frozen=True)
class StackSpec:
    """The encoder's layers, in order."""

    layers: tuple[LayerSpec, ...]
    parameters_of: tuple[int, ...]
    """For each layer the index of the layer whose parameters it uses (ALBERT shares them)."""
    relative_bias: RelativeBiasSpec | None = None
    final_norm: NormSpec | None = None


@dataclass(frozen=True)
class PositionsSpec:
    """A table of positions, learned or computed.

    Attributes:
        size: rows of the table.
        padding_idx: if set, positions count only tokens other than this one, and start after it (RoBERTa,
            M2M100).
        offset: row of the first position (BART: 2).
        sinusoidal: the formula of a computed table: ``halves`` has all sines before all cosines (Marian,
            Pegasus), ``tensor2tensor`` spaces its frequencies as that library does (M2M100).
    """

    size: int
    padding_idx: int | None = None
    offset: int = 0
    sinusoidal: Literal["halves", "tensor2tensor"] | None = None

    @property
    def max_length(self) -> int:
        """The number of tokens that have a position."""
        return self.size - self.offset if self.padding_idx is None else self.size - self.padding_idx - 1


@dataclass(frozen=True)
class EmbeddingsSpec:
    """Token, token-type and position embeddings."""

    vocab_size: int
    size: int
    token_types: int = 0
    positions: PositionsSpec | None = None
    norm: NormSpec | None = None
    projected: bool = False
    """Whether a linear layer maps the embedding size to the hidden size (ALBERT, ELECTRA)."""
    scale: float = 1.0
    norm_first: bool = False
    """Whether positions are added after the norm (decoder of Blenderbot small)."""


@dataclass(frozen=True)
class DenseSpec:
    """A linear layer with an activation, applied to pooled vectors."""

    in_size: int
    out_size: int
    bias: bool
    activation: Activation


@dataclass(frozen=True)
class ClassifierSpec:
    """A classification head: logits from hidden states.

    Attributes:
        labels: number of logits.
        bias: whether the output layer has a bias.
        pick: the token (or mean) that represents a sequence; ``None`` classifies every token.
        dense: a layer before the output layer.
        norm: a norm before the output layer.
        padding_idx: for ``last``; HF takes the rightmost token that is not this one.
    """

    labels: int
    bias: bool
    pick: Literal["first", "last", "mean"] | None
    dense: DenseSpec | None = None
    norm: NormSpec | None = None
    padding_idx: int | None = None


@dataclass(frozen=True)
class EmbedderSpec:
    """A sentence embedding: concatenated pooling modes, dense layers, normalization."""

    pooling: tuple[str, ...]
    include_prompt: bool = True
    dense: tuple[DenseSpec, ...] = ()
    normalize: bool = False


@dataclass(frozen=True)
class DecoderLayerSpec:
    """Self-attention, cross-attention, feed-forward; ``placement`` as in ``LayerSpec``."""

    attention: AttentionSpec
    cross_attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norm: NormSpec
    placement: Literal["post", "pre"]


@dataclass(frozen=True)
class LanguageHeadSpec:
    """Logits of the next token: ``scale * x @ table.T + bias``."""

    vocab_size: int
    tied: bool
    """Whether the table is the decoder's token table."""
    scale: float = 1.0
    bias: bool = False


@dataclass(frozen=True)
class DecoderSpec:
    """The decoder of an encoder-decoder."""

    embeddings: EmbeddingsSpec
    shared_tokens: bool
    """Whether its token table is the encoder's."""
    layers: tuple[DecoderLayerSpec, ...]
    head: LanguageHeadSpec
    relative_bias: RelativeBiasSpec | None = None
    final_norm: NormSpec | None = None


@dataclass(frozen=True)
class ModelSpec:
    """An encoder with the head of its task. ``head`` is ``None`` for hidden states."""

    family: str
    task: Task
    hidden_size: int
    embeddings: EmbeddingsSpec
    encoder: StackSpec
    head: ClassifierSpec | EmbedderSpec | None

    @property
    def output_size(self) -> int:
        """The last dimension of the graph's output."""
        if isinstance(self.head, ClassifierSpec):
            return self.head.labels
        if isinstance(self.head, EmbedderSpec):
            if self.head.dense:
                return self.head.dense[-1].out_size
            return self.hidden_size * len(self.head.pooling)
        return self.hidden_size


@dataclass(frozen=True)
class Seq2SeqSpec:
    """An encoder-decoder that generates text."""

    family: str
    hidden_size: int
    """The hidden size of the encoder."""
    embeddings: EmbeddingsSpec
    encoder: StackSpec
    decoder: DecoderSpec
