"""What log-softmax takes from scores, in C++: rows that nobody asks for cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import Kernel, Operand, pointer
from precast.compiler.sampling.log_softmax import LogSoftmaxTerms


@custom_op("precast::log_softmax_terms", mutates_args=())
def log_softmax_terms(scores: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """As ``sampling.log_softmax.LogSoftmaxTerms``."""
    found: Tensor = LogSoftmaxTerms()(scores, rows, wanted)
    return found


@log_softmax_terms.register_fake
def _(scores: Tensor, rows: Tensor, _: Tensor) -> Tensor:
    return scores.new_empty((2, rows.shape[0]))


def _call(tensors: Mapping[str, Operand | None], _: Mapping[str, Any]) -> str:
    scores, rows = tensors["scores"], tensors["rows"]
    assert scores and rows
    pointers = ", ".join(pointer(tensors[name]) for name in ("scores", "rows", "wanted", "out"))
    return f"precast::log_softmax_terms({pointers}, {rows.sizes[0]}, {scores.sizes[1]});"


LOG_SOFTMAX_TERMS = Kernel(torch.ops.precast.log_softmax_terms.default, "log_softmax.h", {}, _call)


class CppNormalizer(nn.Module):
    """Replaces ``LogSoftmaxTerms``."""

    def forward(self, scores: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        found: Tensor = log_softmax_terms(scores, rows, wanted)
        return found
