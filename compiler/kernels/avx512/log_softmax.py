"""The terms of log-softmax in C++, which skips rows that are not wanted."""

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
    """Computes ``sampling.log_softmax.LogSoftmaxTerms``."""
    terms: Tensor = LogSoftmaxTerms()(scores, rows, wanted)
    return terms


@log_softmax_terms.register_fake
def _(scores: Tensor, rows: Tensor, _: Tensor) -> Tensor:
    return scores.new_empty((2, rows.shape[0]))


def _call(tensors: Mapping[str, Operand | None], _: Mapping[str, Any]) -> str:
    scores, rows = tensors["scores"], tensors["rows"]
    assert scores and rows
    pointers = ", ".join(pointer(tensors[name]) for name in ("scores", "rows", "wanted", "out"))
    return f"precast::log_softmax_terms({pointers}, {rows.sizes[0]}, {scores.sizes[1]});"


LOG_SOFTMAX_TERMS = Kernel(torch.ops.precast.log_softmax_terms.default, "log_softmax.h", {}, _call)


class CppLogSoftmaxTerms(nn.Module):
    """``LogSoftmaxTerms`` with the C++ kernel."""

    def forward(self, scores: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        terms: Tensor = log_softmax_terms(scores, rows, wanted)
        return terms
