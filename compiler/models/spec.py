"""What a model is, as data. A family turns ``config.json`` into these; the modules read only these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precast.graphs.encode import Task

Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "relu", "silu", "tanh", "sigmoid", "identity"]
Window = tuple[int | None, int | None]
"""Keys that a query may see: so many positions to its left and to its right; ``None`` is no limit.
Bidirectional is ``(None, None)``, causal ``(None, 0)``, as in FlashAttention's ``window_size``."""

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True)
class Norm:
    """LayerNorm, or RMSNorm; ``weight_offset`` is what is added to the stored weight (Gemma: 1)."""

    kind: Literal["layer", "rms"]
    eps: float
    bias: bool = True
    weight_offset: float = 0.0


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: ``inv_freq`` holds half the head size; cos and sin are multiplied by ``scaling``."""

    inv_freq: tuple[float, ...]
    scaling: float = 1.0


@dataclass(frozen=True)
class RelativeBias:
    """T5's bucketed relative position bias, added to the scores."""

    buckets: int
    max_distance: int
    rows: int
    """Rows of the stored table; at least ``buckets``."""
    bidirectional: bool = True


@dataclass(frozen=True)
class Attention:
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    qkv_bias: bool = True
    out_bias: bool = True
    window: Window = (None, None)
    rotary: Rotary | None = None
    relative_bias: RelativeBias | None = None
    """A bias of this layer's own; one that all layers share is the stack's."""
    qk_norm: Norm | None = None


@dataclass(frozen=True)
class FeedForward:
    """``down(act(up(x)))``, or gated: ``down(act(first half of up(x)) * second half)``."""

    size: int
    activation: Activation
    gated: bool = False
    bias: bool = True


@dataclass(frozen=True)
class Layer:
    """``post``: norm after the residual sum. ``pre``: norm on the way in. ``sandwich``: norm on the
    way in and on the way out, before the sum."""

    attention: Attention
    feed_forward: FeedForward
    norm: Norm
    placement: Literal["post", "pre", "sandwich"]
    attention_norm: bool = True
    """ModernBERT's first layer has no norm before its attention."""


@dataclass(frozen=True)
class Stack:
    layers: tuple[Layer, ...]
    parameters_of: tuple[int, ...]
    """For each layer the index of the layer whose parameters it runs with (ALBERT shares them)."""
    relative_bias: RelativeBias | None = None
    final_norm: Norm | None = None


@dataclass(frozen=True)
class Positions:
    """A table of positions, learned or computed.

    With ``padding_idx`` they count only other tokens and start behind it (RoBERTa, M2M100). ``sinusoidal``
    names the formula of a computed one: ``halves`` has all sines before all cosines (Marian, Pegasus),
    ``tensor2tensor`` spaces its frequencies as that library does (M2M100).
    """

    size: int
    """Rows of the table."""
    padding_idx: int | None = None
    offset: int = 0
    """Row of the first position (BART: 2)."""
    sinusoidal: Literal["halves", "tensor2tensor"] | None = None

    @property
    def max_length(self) -> int:
        return self.size - self.offset if self.padding_idx is None else self.size - self.padding_idx - 1


@dataclass(frozen=True)
class Embeddings:
    vocab_size: int
    size: int
    token_types: int = 0
    positions: Positions | None = None
    norm: Norm | None = None
    projected: bool = False
    """Whether a linear layer takes the embedding size to the hidden size (ALBERT, ELECTRA)."""
    scale: float = 1.0
    norm_first: bool = False
    """Whether positions are added behind the norm (Blenderbot small's decoder)."""


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation, for pooled vectors."""

    in_size: int
    out_size: int
    bias: bool
    activation: Activation


@dataclass(frozen=True)
class Classifier:
    """Logits from hidden states.

    ``pick`` is the token (or mean) that a sequence is judged by; ``None`` judges each token.
    ``padding_idx`` is for ``last``: HF takes the rightmost token that is not this one.
    """

    labels: int
    bias: bool
    pick: Literal["first", "last", "mean"] | None
    dense: Dense | None = None
    norm: Norm | None = None
    padding_idx: int | None = None


@dataclass(frozen=True)
class Embedder:
    """A sentence embedding: pooling modes side by side, dense layers, normalisation."""

    pooling: tuple[str, ...]
    include_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    normalize: bool = False


@dataclass(frozen=True)
class DecoderLayer:
    """Self-attention, cross-attention, feed-forward; ``placement`` as in ``Layer``."""

    attention: Attention
    cross_attention: Attention
    feed_forward: FeedForward
    norm: Norm
    placement: Literal["post", "pre"]


@dataclass(frozen=True)
class LanguageHead:
    """Logits of the next token: ``scale * x @ table.T + bias``."""

    vocab_size: int
    tied: bool
    """Whether the table is that of the decoder's tokens."""
    scale: float = 1.0
    bias: bool = False


@dataclass(frozen=True)
class Decoder:
    """The second half of an encoder-decoder."""

    embeddings: Embeddings
    shared_tokens: bool
    """Whether its token table is the encoder's."""
    layers: tuple[DecoderLayer, ...]
    head: LanguageHead
    relative_bias: RelativeBias | None = None
    final_norm: Norm | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One encoder with the head of its task. ``head`` is ``None`` for hidden states."""

    family: str
    task: Task
    hidden_size: int
    embeddings: Embeddings
    encoder: Stack
    head: Classifier | Embedder | None

    @property
    def output_size(self) -> int:
        """The last dimension of what the graph answers with."""
        if isinstance(self.head, Classifier):
            return self.head.labels
        if isinstance(self.head, Embedder):
            if self.head.dense:
                return self.head.dense[-1].out_size
            return self.hidden_size * len(self.head.pooling)
        return self.hidden_size


@dataclass(frozen=True)
class Seq2SeqSpec:
    """An encoder-decoder that generates."""

    family: str
    hidden_size: int
    """Of the encoder."""
    embeddings: Embeddings
    encoder: Stack
    decoder: Decoder
