"""Embeddings and the stack of layers: token ids in, hidden states out."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.layers import Layer, Norm, RelativeBias, RotaryTable
from precast.compiler.models.layout import PackedLayout
from precast.compiler.models.packed_ops import PackedOps
from precast.compiler.models.positions import sinusoidal_table


class Embeddings(nn.Module):
    """Token, token-type and position embeddings, summed, normed, projected.

    Args:
        hidden: what ``projected`` embeddings are taken to.
        embeddings: what they are.
        tokens: the token table, where another module has it already.
    """

    def __init__(self, hidden: int, embeddings: spec.Embeddings, tokens: nn.Embedding | None = None) -> None:
        super().__init__()
        self.spec = embeddings
        size, positions = embeddings.size, embeddings.positions
        self.tokens = nn.Embedding(embeddings.vocab_size, size) if tokens is None else tokens
        self.token_types = nn.Embedding(embeddings.token_types, size) if embeddings.token_types else None
        self.positions = PositionTable(positions, size) if positions else None
        self.norm = Norm(size, embeddings.norm) if embeddings.norm else None
        self.projection = nn.Linear(size, hidden) if embeddings.projected else None

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: PackedLayout) -> Tensor:
        """Packed tokens ``[T]`` to ``[T, hidden]``."""
        position_ids = None
        if self.positions is not None:
            position_ids = packed_position_ids(input_ids, layout, self.positions.spec)
        return self.embed(input_ids, token_type_ids, position_ids)

    def step(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """One token of each row, ``[R]`` at ``positions`` ``[R]``, to ``[R, hidden]``."""
        position_ids = None
        if self.positions is not None:
            position_ids = step_position_ids(input_ids, positions, self.positions.spec)
        return self.embed(input_ids, None, position_ids)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        x = self.tokens(input_ids)
        if self.spec.scale != 1.0:
            x = x * self.spec.scale
        if self.token_types is not None:
            types = self.token_types.weight[0] if token_type_ids is None else self.token_types(token_type_ids)
            x = x + types
        if self.norm is not None and self.spec.norm_first:
            x = self.norm(x)
        if self.positions is not None and position_ids is not None:
            x = x + self.positions(position_ids).to(x.dtype)
        if self.norm is not None and not self.spec.norm_first:
            x = self.norm(x)
        return x if self.projection is None else self.projection(x)


class PositionTable(nn.Module):
    """Rows by position; a computed table is no parameter."""

    def __init__(self, positions: spec.Positions, size: int) -> None:
        super().__init__()
        self.spec = positions
        self.weight: Tensor
        if positions.sinusoidal is None:
            self.weight = nn.Parameter(torch.zeros(positions.size, size))
        else:
            self.register_buffer("weight", sinusoidal_table(positions, size))

    def forward(self, position_ids: Tensor) -> Tensor:
        return F.embedding(position_ids, self.weight)


def packed_position_ids(input_ids: Tensor, layout: PackedLayout, positions: spec.Positions) -> Tensor:
    padding_idx = positions.padding_idx
    if padding_idx is None:
        return (layout.position + positions.offset).clamp(max=positions.size - 1)
    # HF's create_position_ids_from_input_ids: count tokens that are not padding, up to this one.
    counts = (input_ids != padding_idx).long()
    upto = counts.cumsum(0)
    before = (upto - counts)[layout.first][layout.sequence]
    return ((upto - before) * counts + padding_idx).clamp(max=positions.size - 1)


def step_position_ids(input_ids: Tensor, step: Tensor, positions: spec.Positions) -> Tensor:
    """The same for one token with ``step`` tokens before it, as HF numbers it: all of those count."""
    padding_idx = positions.padding_idx
    if padding_idx is None:
        return (step.long() + positions.offset).clamp(max=positions.size - 1)
    counts = (input_ids != padding_idx).long()
    return ((step.long() + 1) * counts + padding_idx).clamp(max=positions.size - 1)


class Stack(nn.Module):
    """Layers one after another. Masks and rotary tables are built once for each kind that occurs."""

    def __init__(self, hidden: int, stack: spec.Stack) -> None:
        super().__init__()
        self.spec = stack
        owners = sorted(set(stack.parameters_of))
        self.layers = nn.ModuleDict({str(i): Layer(hidden, stack.layers[i]) for i in owners})
        heads = stack.layers[0].attention.heads
        self.relative_bias = RelativeBias(heads, stack.relative_bias) if stack.relative_bias else None
        self.final_norm = Norm(hidden, stack.final_norm) if stack.final_norm else None
        kinds = dict.fromkeys(layer.attention.rotary for layer in stack.layers)
        self._rotary_kinds = [kind for kind in kinds if kind is not None]
        self.rotary = nn.ModuleList(RotaryTable(kind) for kind in self._rotary_kinds)

    def forward(self, x: Tensor, layout: PackedLayout, ops: PackedOps) -> Tensor:
        tables = {
            kind: table(layout.position) for kind, table in zip(self._rotary_kinds, self.rotary, strict=True)
        }
        shared_bias = None if self.relative_bias is None else self.relative_bias()
        shared: dict[spec.Window, Any] = {}
        for described, owner in zip(self.spec.layers, self.spec.parameters_of, strict=True):
            layer = cast(Layer, self.layers[str(owner)])
            window = described.attention.window
            own_bias = layer.attention.relative_bias
            if own_bias is not None:
                visible = ops.visible(window, own_bias())
            else:
                if window not in shared:
                    shared[window] = ops.visible(window, shared_bias)
                visible = shared[window]
            rotary = described.attention.rotary
            x = layer(x, ops, visible, tables[rotary] if rotary is not None else None)
        return x if self.final_norm is None else self.final_norm(x)
