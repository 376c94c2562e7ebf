"""The parts of a transformer layer, each built from its spec, on packed tokens ``[T, ...]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.packed_ops import PackedOps

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class ActivatedLinear(nn.Linear):
    """A linear layer followed by ``ACTIVATIONS[activation]``."""

    def __init__(self, inner: int, columns: int, bias: bool, activation: spec.Activation) -> None:
        super().__init__(inner, columns, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](super().forward(x))


class ResidualLinear(nn.Linear):
    """A linear layer that adds its output to ``residual``; a kernel may fuse the addition."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = super().forward(x)
        return out if residual is None else residual + out


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last dimension, statistics in fp32."""

    def __init__(self, size: int, norm: spec.NormSpec) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if norm.kind == "layer" and norm.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.norm.kind == "layer":
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.norm.eps)
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.norm.eps)
        return (scaled * (self.weight.float() + self.norm.weight_offset)).to(x.dtype)


class RotaryTable(nn.Module):
    """Computes cos and sin of every token's position in fp32 (HF's half-split form)."""

    def __init__(self, rotary: spec.RotarySpec) -> None:
        super().__init__()
        self.scaling = rotary.scaling
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", torch.tensor(rotary.inv_freq, device="cpu"))

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Compute fp32 ``[T, 1, 1, head_dim / 2]`` and ``[T, 1, 2, head_dim / 2]`` from ``position`` ``[T]``.

        The first holds cosines, the second the sines for both halves of a head, negated for the first half.
        """
        angle = position.to(torch.float32)[:, None, None, None] * self.inv_freq
        sin = angle.sin() * self.scaling
        return angle.cos() * self.scaling, torch.cat((-sin, sin), dim=2)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate ``[T, heads, head_dim]`` by its positions; the two halves of a head form the pairs.

    The halves are swapped by ``flip``: splitting and concatenating them would take a kernel for each half.
    """
    cos, sin = table
    halves = x.float().unflatten(-1, (2, -1))
    return (halves * cos + halves.flip(-2) * sin).flatten(-2).to(x.dtype)


class RelativeBias(nn.Module):
    """T5's relative position bias.

    The bucket of each distance is tabulated at build time with the expression of HF's
    ``_relative_position_bucket``: a fused logarithm may differ in its last bit and move a distance
    at the edge of a bucket. Beyond ``max_distance`` the bucket is constant.
    """

    def __init__(self, heads: int, bias: spec.RelativeBiasSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(bias.rows, heads))
        self.bucket_of: Tensor
        self.register_buffer("bucket_of", relative_buckets(bias))

    def forward(self) -> Tensor:
        """Look up the bias of every distance (key minus query), ``[heads, 2 * max_distance + 1]``."""
        return F.embedding(self.bucket_of, self.weight).T


def relative_buckets(bias: spec.RelativeBiasSpec) -> Tensor:
    """The bucket of every distance ``-max_distance .. max_distance`` (key minus query), int64."""
    distance = torch.arange(-bias.max_distance, bias.max_distance + 1, device="cpu")
    buckets = bias.buckets
    first = torch.zeros_like(distance)
    if bias.bidirectional:
        buckets //= 2
        first = (distance > 0).to(torch.int64) * buckets
        distance = distance.abs()
    else:
        distance = -torch.clamp(distance, max=0)
    exact = buckets // 2
    ratio = torch.log(distance.float() / exact) / math.log(bias.max_distance / exact)
    large = (exact + (ratio.clamp(min=0) * (buckets - exact)).to(torch.int64)).clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, large)


class Attention(nn.Module):
    """Self-attention of an encoder, with its projections."""

    def __init__(self, hidden: int, attention: spec.AttentionSpec) -> None:
        super().__init__()
        self.spec = attention
        heads = attention.heads + 2 * attention.kv_heads
        inner = attention.heads * attention.head_dim
        self.qkv = nn.Linear(hidden, heads * attention.head_dim, bias=attention.qkv_bias)
        self.out = ResidualLinear(inner, hidden, bias=attention.out_bias)
        qk_norm = attention.qk_norm
        self.q_norm = Norm(attention.head_dim, qk_norm) if qk_norm else None
        self.k_norm = Norm(attention.head_dim, qk_norm) if qk_norm else None
        bias = attention.relative_bias
        self.relative_bias = RelativeBias(attention.heads, bias) if bias else None

    def forward(
        self,
        x: Tensor,
        ops: PackedOps,
        visible: Any,
        table: tuple[Tensor, Tensor] | None,
        residual: Tensor | None = None,
    ) -> Tensor:
        s = self.spec
        qkv = self.qkv(x).view(x.shape[0], -1, s.head_dim)
        q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
            if table is not None:
                q, k = rotate(q, table), rotate(k, table)
        elif table is not None:
            # Queries and keys are adjacent, so one kernel rotates both.
            rotated = rotate(qkv[:, : s.heads + s.kv_heads], table)
            q, k = rotated.split([s.heads, s.kv_heads], dim=1)
        return self.out(ops.attention(q, k, v, visible, s.scale), residual)


class FeedForward(nn.Module):
    """The feed-forward block, plain or gated."""

    def __init__(self, hidden: int, feed_forward: spec.FeedForwardSpec) -> None:
        super().__init__()
        self.gated = feed_forward.gated
        self.activation = ACTIVATIONS[feed_forward.activation]
        size, bias = feed_forward.size, feed_forward.bias
        if feed_forward.gated:
            self.up: nn.Linear = nn.Linear(hidden, 2 * size, bias=bias)
        else:
            self.up = ActivatedLinear(hidden, size, bias, feed_forward.activation)
        self.down = ResidualLinear(size, hidden, bias=bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        wide = self.up(x)
        if self.gated:
            gate, linear = wide.chunk(2, dim=-1)
            wide = self.activation(gate) * linear
        return self.down(wide, residual)


class Layer(nn.Module):
    """An encoder layer; ``LayerSpec.placement`` says where its norms are applied."""

    def __init__(self, hidden: int, layer: spec.LayerSpec) -> None:
        super().__init__()
        self.placement = layer.placement
        self.attention = Attention(hidden, layer.attention)
        self.attention_norm = Norm(hidden, layer.norm) if layer.attention_norm else nn.Identity()
        self.feed_forward = FeedForward(hidden, layer.feed_forward)
        self.feed_forward_norm = Norm(hidden, layer.norm)
        if layer.placement == "sandwich":
            self.attention_out_norm = Norm(hidden, layer.norm)
            self.feed_forward_out_norm = Norm(hidden, layer.norm)

    def forward(self, x: Tensor, ops: PackedOps, visible: Any, table: tuple[Tensor, Tensor] | None) -> Tensor:
        attend = partial(self.attention, ops=ops, visible=visible, table=table)
        if self.placement == "post":
            x = self.attention_norm(attend(x, residual=x))
            return self.feed_forward_norm(self.feed_forward(x, residual=x))
        if self.placement == "pre":
            x = attend(self.attention_norm(x), residual=x)
            return self.feed_forward(self.feed_forward_norm(x), residual=x)
        x = x + self.attention_out_norm(attend(self.attention_norm(x)))
        return x + self.feed_forward_out_norm(self.feed_forward(self.feed_forward_norm(x)))
