"""The decoder of an encoder-decoder: one token per sequence and step, over the KV cache."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.decode_ops import DecodeOps, KVCache, SourceWriter
from precast.compiler.models.embeddings import Embeddings
from precast.compiler.models.layers import FeedForward, Norm, RelativeBias, ResidualLinear


class SelfAttention(nn.Module):
    def __init__(self, hidden: int, attention: spec.AttentionSpec) -> None:
        super().__init__()
        self.spec = attention
        inner = attention.heads * attention.head_dim
        self.qkv = nn.Linear(hidden, 3 * inner, bias=attention.qkv_bias)
        self.out = ResidualLinear(inner, hidden, bias=attention.out_bias)
        relative_bias = attention.relative_bias
        self.relative_bias = RelativeBias(attention.heads, relative_bias) if relative_bias else None

    def forward(self, x: Tensor, ops: DecodeOps, cache: KVCache, visible: Any, residual: Tensor) -> Tensor:
        query, key, value = self.qkv(x).view(x.shape[0], 3, self.spec.heads, -1).unbind(1)
        if self.relative_bias is not None:
            visible = ops.visible(self.relative_bias())
        attended = ops.self_attention(query, key, value, cache, visible, self.spec.scale)
        return self.out(attended, residual)


class CrossAttention(nn.Module):
    """Keys and values of the source are computed once, by the ``encode_source`` graph."""

    def __init__(self, hidden: int, source_hidden: int, attention: spec.AttentionSpec) -> None:
        super().__init__()
        self.spec = attention
        inner = attention.heads * attention.head_dim
        self.q = nn.Linear(hidden, inner, bias=attention.qkv_bias)
        self.kv = nn.Linear(source_hidden, 2 * inner, bias=attention.qkv_bias)
        self.out = ResidualLinear(inner, hidden, bias=attention.out_bias)

    def forward(self, x: Tensor, ops: DecodeOps, cache: KVCache, residual: Tensor) -> Tensor:
        query = self.q(x).view(x.shape[0], self.spec.heads, -1)
        return self.out(ops.cross_attention(query, cache, self.spec.scale), residual)


class DecoderLayer(nn.Module):
    def __init__(self, hidden: int, source_hidden: int, layer: spec.DecoderLayerSpec) -> None:
        super().__init__()
        self.placement = layer.placement
        self.attention = SelfAttention(hidden, layer.attention)
        self.attention_norm = Norm(hidden, layer.norm)
        self.cross_attention = CrossAttention(hidden, source_hidden, layer.cross_attention)
        self.cross_attention_norm = Norm(hidden, layer.norm)
        self.feed_forward = FeedForward(hidden, layer.feed_forward)
        self.feed_forward_norm = Norm(hidden, layer.norm)

    def forward(self, x: Tensor, ops: DecodeOps, self_kv: KVCache, cross_kv: KVCache, visible: Any) -> Tensor:
        if self.placement == "post":
            x = self.attention_norm(self.attention(x, ops, self_kv, visible, residual=x))
            x = self.cross_attention_norm(self.cross_attention(x, ops, cross_kv, residual=x))
            return self.feed_forward_norm(self.feed_forward(x, residual=x))
        x = self.attention(self.attention_norm(x), ops, self_kv, visible, residual=x)
        x = self.cross_attention(self.cross_attention_norm(x), ops, cross_kv, residual=x)
        return self.feed_forward(self.feed_forward_norm(x), residual=x)


class LanguageHead(nn.Module):
    """Computes fp32 logits ``[R, vocab_size]``.

    Args:
        hidden: Size of the decoder's hidden states.
        head: The specification.
        tokens: The decoder's token table, which is also the head's if they are tied.
    """

    def __init__(self, hidden: int, head: spec.LanguageHeadSpec, tokens: nn.Embedding) -> None:
        super().__init__()
        self.scale = head.scale
        self.table = tokens if head.tied else nn.Embedding(head.vocab_size, hidden)
        self.bias = nn.Parameter(torch.zeros(head.vocab_size)) if head.bias else None

    def forward(self, x: Tensor) -> Tensor:
        logits = nn.functional.linear(x * self.scale if self.scale != 1.0 else x, self.table.weight).float()
        return logits if self.bias is None else logits + self.bias.float()


class ScaledHead(nn.Module):
    """A ``LanguageHead`` with another layer instead of its table.

    Args:
        head: The head, of which the scale is kept; the layer has its own bias.
        out: The layer, with fp32 logits as its output.
    """

    def __init__(self, head: LanguageHead, out: nn.Module) -> None:
        super().__init__()
        self.scale, self.out = head.scale, out

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x * self.scale if self.scale != 1.0 else x)
        return logits


class Decoder(nn.Module):
    def __init__(self, source_hidden: int, decoder: spec.DecoderSpec, source_tokens: nn.Embedding) -> None:
        super().__init__()
        hidden = decoder.embeddings.size
        shared = source_tokens if decoder.shared_tokens else None
        self.embeddings = Embeddings(hidden, decoder.embeddings, shared)
        self.layers = nn.ModuleList(DecoderLayer(hidden, source_hidden, layer) for layer in decoder.layers)
        heads = decoder.layers[0].attention.heads
        self.relative_bias = RelativeBias(heads, decoder.relative_bias) if decoder.relative_bias else None
        self.final_norm = Norm(hidden, decoder.final_norm) if decoder.final_norm else None
        self.head = LanguageHead(hidden, decoder.head, self.embeddings.tokens)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        ops: DecodeOps,
        self_kv: list[KVCache],
        cross_kv: list[KVCache],
    ) -> Tensor:
        """Compute one step: ``tokens`` ``[R]`` at ``positions`` ``[R]`` to logits ``[R, vocab_size]``."""
        x = self.embeddings.step(tokens, positions)
        visible = ops.visible(None if self.relative_bias is None else self.relative_bias())
        for layer, self_cache, cross_cache in zip(self.layers, self_kv, cross_kv, strict=True):
            x = cast(DecoderLayer, layer)(x, ops, self_cache, cross_cache, visible)
        return self.head(x if self.final_norm is None else self.final_norm(x))

    def write_cross_kv(
        self, hidden: Tensor, slots: Tensor, cross_kv: list[KVCache], write: SourceWriter
    ) -> None:
        """Write every layer's keys and values of the source into the cross-attention KV cache."""
        for layer, cache in zip(self.layers, cross_kv, strict=True):
            write(hidden, cast(DecoderLayer, layer).cross_attention.kv, slots, cache)
