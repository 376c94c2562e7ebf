"""LayerNorm and RMSNorm in C++, which use one thread for few rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import NUMBERS, Kernel, Operand, pointer
from precast.compiler.models.layers import Norm


@custom_op("precast::norm", mutates_args=())
def norm(numbers: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centered: bool) -> Tensor:
    """Computes ``layers.Norm`` over the last dimension.

    Args:
        numbers: ``[R, groups, size]``; fp32 or bf16; any strides of the first two dimensions.
        weight: fp32 ``[size]``.
        bias: fp32 ``[size]``, or None.
        eps: added to the variance.
        centered: True for LayerNorm, False for RMSNorm.

    Returns:
        ``[R, groups, size]``, same dtype as ``numbers``.
    """
    normalize = F.layer_norm if centered else F.rms_norm
    out = normalize(numbers.float(), weight.shape, weight, eps=eps)
    return (out if bias is None else out + bias).to(numbers.dtype)


@norm.register_fake
def _(numbers: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centered: bool) -> Tensor:
    return numbers.new_empty(numbers.shape)


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    numbers, out = tensors["numbers"], tensors["out"]
    assert numbers is not None and out is not None
    sizes = ", ".join([*numbers.sizes, *numbers.strides[:2]])
    return (
        f"precast::norm<{str(arguments['centered']).lower()}, {NUMBERS[out.dtype]}>("
        f"{numbers.at}, {pointer(tensors['weight'])}, {pointer(tensors['bias'])}, {out.at}, "
        f"{{{sizes}}}, {arguments['eps']!r});"
    )


NORM = Kernel(torch.ops.precast.norm.default, "norm.h", {"numbers": 1}, _call)


class CppNorm(nn.Module):
    """``Norm`` with the C++ kernel, over ``[R, size]`` or ``[R, groups, size]``."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.eps, self.centered = norm.norm.eps, norm.norm.kind == "layer"
        weight = norm.weight.detach().float()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight if self.centered else weight + norm.norm.weight_offset)
        self.register_buffer("bias", None if norm.bias is None else norm.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unsqueeze(1) if x.dim() == 2 else x
        out: Tensor = norm(grouped, self.weight, self.bias, self.eps, self.centered)
        return out.view(x.shape)
