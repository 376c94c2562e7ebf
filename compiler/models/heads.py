"""Heads on packed hidden states: classification and sentence embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.layers import ActivatedLinear, Norm
from precast.compiler.models.packed_ops import PackedLayout, PackedOps


class Dense(nn.Module):
    """A linear layer with an activation."""

    def __init__(self, dense: spec.DenseSpec) -> None:
        super().__init__()
        self.linear = ActivatedLinear(dense.in_size, dense.out_size, dense.bias, dense.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Classifier(nn.Module):
    """Computes logits, fp32: ``[B, labels]``, or ``[T, labels]`` if every token is classified."""

    def __init__(self, hidden: int, classifier: spec.ClassifierSpec) -> None:
        super().__init__()
        self.spec = classifier
        self.dense = Dense(classifier.dense) if classifier.dense else None
        width = classifier.dense.out_size if classifier.dense else hidden
        self.norm = Norm(width, classifier.norm) if classifier.norm else None
        self.out = nn.Linear(width, classifier.labels, bias=classifier.bias)

    def forward(
        self, x: Tensor, input_ids: Tensor, layout: PackedLayout, ops: PackedOps, skip: Tensor | None
    ) -> Tensor:
        x = self._picked(x, input_ids, layout, ops)
        if self.dense is not None:
            x = self.dense(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.out(x).float()

    def _picked(self, x: Tensor, input_ids: Tensor, layout: PackedLayout, ops: PackedOps) -> Tensor:
        if self.spec.pick is None:
            return x
        if self.spec.pick == "first":
            return x[layout.first]
        if self.spec.pick == "mean":
            return pool("mean", x, layout, ops, None).to(x.dtype)
        if self.spec.padding_idx is None:
            return x[layout.last]
        # As in HF: the rightmost token that is not padding, or the first if all are. fp32 is exact for
        # positions.
        candidates = torch.where(input_ids != self.spec.padding_idx, layout.position, 0).float()[:, None]
        last = ops.segment_max(candidates, layout.starts)[:, 0].clamp(min=0).to(torch.int64)
        return x[(layout.starts + last).clamp(max=x.shape[0] - 1)]


class Embedder(nn.Module):
    """Computes sentence embeddings, fp32 ``[B, size]``, like sentence-transformers' modules."""

    def __init__(self, embedder: spec.EmbedderSpec) -> None:
        super().__init__()
        self.spec = embedder
        self.dense = nn.ModuleList(Dense(dense) for dense in embedder.dense)

    def forward(
        self, x: Tensor, input_ids: Tensor, layout: PackedLayout, ops: PackedOps, skip: Tensor | None
    ) -> Tensor:
        pooled = torch.cat([pool(mode, x, layout, ops, skip) for mode in self.spec.pooling], dim=-1)
        for dense in self.dense:
            pooled = dense(pooled.to(x.dtype)).float()
        return F.normalize(pooled, dim=-1) if self.spec.normalize else pooled


def pool(mode: str, x: Tensor, layout: PackedLayout, ops: PackedOps, skip: Tensor | None) -> Tensor:
    """Pool each sequence to one vector, with the modes of sentence-transformers' ``Pooling``.

    Args:
        mode: one of ``spec.POOLING_MODES``.
        x: ``[T, hidden]``.
        layout: of the batch.
        ops: of the batch.
        skip: ``[B]``, the number of leading tokens (of a prompt) to exclude, or None.

    Returns:
        fp32 ``[B, hidden]``; finite and without meaning for a sequence of length zero.
    """
    if mode == "lasttoken":
        return x[layout.last].float()
    lengths, skipped = layout.lengths, torch.zeros_like(layout.lengths) if skip is None else skip.long()
    begin = layout.starts + skipped
    if mode == "cls":
        # If the prompt is the whole input, the first token is used.
        return x[torch.where(skipped < lengths, begin, layout.starts).clamp(max=x.shape[0] - 1)].float()
    if mode == "max":
        return ops.segment_max(x, begin)
    count = (lengths - skipped).clamp(min=0)
    if mode == "weightedmean":
        weight = (layout.position + 1).float()
        # The weights of positions skipped .. length - 1 are consecutive integers.
        total_weight = (count * (lengths + skipped + 1)).float() / 2
        return ops.segment_sum(x, begin, weight) / total_weight.clamp(min=1e-9)[:, None]
    divisor = count.float().clamp(min=1e-9)
    return (
        ops.segment_sum(x, begin) / (divisor.sqrt() if mode == "mean_sqrt_len_tokens" else divisor)[:, None]
    )
