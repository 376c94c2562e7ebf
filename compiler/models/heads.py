"""What follows the hidden states: classification heads and sentence embeddings, on packed rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.layers import ActivatedLinear, Norm
from precast.compiler.models.layout import PackedLayout
from precast.compiler.models.packed_ops import PackedOps


class Dense(nn.Module):
    def __init__(self, dense: spec.Dense) -> None:
        super().__init__()
        self.linear = ActivatedLinear(dense.in_size, dense.out_size, dense.bias, dense.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Classifier(nn.Module):
    """Logits, fp32: ``[B, labels]``, or ``[T, labels]`` where every token is judged."""

    def __init__(self, hidden: int, classifier: spec.Classifier) -> None:
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
        # HF: the rightmost token that is not padding; the first one where all are. fp32 holds a position.
        told = torch.where(input_ids != self.spec.padding_idx, layout.position, 0).float()[:, None]
        chosen = ops.largest(told, layout.starts)[:, 0].clamp(min=0).to(torch.int64)
        return x[(layout.starts + chosen).clamp(max=x.shape[0] - 1)]


class Embedder(nn.Module):
    """Sentence embeddings, fp32 ``[B, size]``: the modules of a sentence-transformers directory."""

    def __init__(self, embedder: spec.Embedder) -> None:
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
    """One vector a sequence, as sentence-transformers' ``Pooling`` defines the modes.

    Args:
        mode: one of ``spec.POOLING_MODES``.
        x: ``[T, hidden]``.
        layout: of the batch.
        ops: of the batch.
        skip: ``[B]`` leading tokens (a prompt's) that are left out, or None.

    Returns:
        fp32 ``[B, hidden]``; a sequence of length zero gives finite numbers that nobody reads.
    """
    if mode == "lasttoken":
        return x[layout.last].float()
    lengths, skipped = layout.lengths, torch.zeros_like(layout.lengths) if skip is None else skip.long()
    begin = layout.starts + skipped
    if mode == "cls":
        # A prompt that fills its input leaves the first token.
        return x[torch.where(skipped < lengths, begin, layout.starts).clamp(max=x.shape[0] - 1)].float()
    if mode == "max":
        return ops.largest(x, begin)
    count = (lengths - skipped).clamp(min=0)
    if mode == "weightedmean":
        weight = (layout.position + 1).float()
        # The weights of positions skipped .. length - 1 are consecutive numbers.
        share = (count * (lengths + skipped + 1)).float() / 2
        return ops.total(x, begin, weight) / share.clamp(min=1e-9)[:, None]
    share = count.float().clamp(min=1e-9)
    return ops.total(x, begin) / (share.sqrt() if mode == "mean_sqrt_len_tokens" else share)[:, None]
