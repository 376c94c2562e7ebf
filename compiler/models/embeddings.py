"""Token, token-type and position embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.layers import Norm
from precast.compiler.models.packed_ops import PackedLayout


class Embeddings(nn.Module):
    """Token, token-type and position embeddings: summed, normalized, projected.

    Args:
        hidden: the size that ``projected`` embeddings are mapped to.
        embeddings: the description.
        tokens: another module's token table to share; default a new one.
    """

    def __init__(
        self, hidden: int, embeddings: spec.EmbeddingsSpec, tokens: nn.Embedding | None = None
    ) -> None:
        super().__init__()
        self.spec = embeddings
        size, positions = embeddings.size, embeddings.positions
        self.tokens = nn.Embedding(embeddings.vocab_size, size) if tokens is None else tokens
        self.token_types = nn.Embedding(embeddings.token_types, size) if embeddings.token_types else None
        self.positions = PositionTable(positions, size) if positions else None
        self.norm = Norm(size, embeddings.norm) if embeddings.norm else None
        self.projection = nn.Linear(size, hidden) if embeddings.projected else None

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, layout: PackedLayout) -> Tensor:
        """Embed packed tokens ``[T]`` as ``[T, hidden]``."""
        position_ids = None
        if self.positions is not None:
            position_ids = packed_position_ids(input_ids, layout, self.positions.spec)
        return self.embed(input_ids, token_type_ids, position_ids)

    def step(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Embed one token of each sequence, ``[R]`` at ``positions`` ``[R]``, as ``[R, hidden]``."""
        position_ids = None
        if self.positions is not None:
            position_ids = step_position_ids(input_ids, positions, self.positions.spec)
        return self.embed(input_ids, None, position_ids)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None, position_ids: Tensor | None) -> Tensor:
        """Embed tokens whose rows of the position table are known."""
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
    """Position embeddings. A learned table is a parameter, a computed one a buffer."""

    def __init__(self, positions: spec.PositionsSpec, size: int) -> None:
        super().__init__()
        self.spec = positions
        self.weight: Tensor
        if positions.sinusoidal is None:
            self.weight = nn.Parameter(torch.zeros(positions.size, size))
        else:
            self.register_buffer("weight", sinusoidal_table(positions, size))

    def forward(self, position_ids: Tensor) -> Tensor:
        return F.embedding(position_ids, self.weight)


def packed_position_ids(input_ids: Tensor, layout: PackedLayout, positions: spec.PositionsSpec) -> Tensor:
    """Row of the position table for each packed token, int64 ``[T]``."""
    padding_idx = positions.padding_idx
    if padding_idx is None:
        return (layout.position + positions.offset).clamp(max=positions.size - 1)
    # HF's create_position_ids_from_input_ids: counts the tokens that are not padding, up to and including
    # this one.
    counts = (input_ids != padding_idx).long()
    counted = counts.cumsum(0)
    before_sequence = (counted - counts)[layout.first][layout.sequence]
    return ((counted - before_sequence) * counts + padding_idx).clamp(max=positions.size - 1)


def step_position_ids(input_ids: Tensor, step: Tensor, positions: spec.PositionsSpec) -> Tensor:
    """Row of the position table for one token after ``step`` tokens; as in HF, all of those count."""
    padding_idx = positions.padding_idx
    if padding_idx is None:
        return (step.long() + positions.offset).clamp(max=positions.size - 1)
    counts = (input_ids != padding_idx).long()
    return ((step.long() + 1) * counts + padding_idx).clamp(max=positions.size - 1)


def sinusoidal_table(positions: spec.PositionsSpec, size: int) -> Tensor:
    """Compute a sinusoidal position table, fp32 ``[positions.size, size]``: sines, then cosines.

    ``halves`` has the angle ``p / 10000 ** (2 i / size)``; an odd size has one sine more (HF's Marian and
    Pegasus, in fp64). ``tensor2tensor`` has ``p * exp(-i * log(10000) / (size // 2 - 1))``; the row of
    padding is zero, and so is the last column of an odd size.
    """
    if positions.sinusoidal == "halves":
        column = torch.arange(size, dtype=torch.float64, device="cpu")
        exponent = 2 * torch.div(column, 2, rounding_mode="floor") / size
        row = torch.arange(positions.size, dtype=torch.float64, device="cpu")
        angle = row[:, None] / torch.pow(10000.0, exponent)
        return torch.cat((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=1).float()
    half = size // 2
    step = torch.arange(half, dtype=torch.int64, device="cpu").float() * -(math.log(10000) / (half - 1))
    row = torch.arange(positions.size, dtype=torch.int64, device="cpu").float()
    angle = row[:, None] * step.exp()[None, :]
    table = torch.cat((angle.sin(), angle.cos(), torch.zeros(positions.size, size % 2, device="cpu")), dim=1)
    if positions.padding_idx is not None:
        table[positions.padding_idx] = 0
    return table
