"""Linear layers with int8 weights in panels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import NUMBERS, Kernel, Operand, pointer
from precast.compiler.kernels.avx512.linear import ACTIVATION_TYPES, PANEL, from_panels, to_panels
from precast.compiler.models.layers import ACTIVATIONS
from precast.compiler.quantization.linear_int8 import QuantizedLinear, quantized_linear


@custom_op("precast::panel_linear_int8", mutates_args=())
def panel_linear_int8(
    x: Tensor,
    panels: Tensor,
    scale: Tensor,
    sums: Tensor,
    smooth: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    columns: int,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """Computes ``QuantizedLinear``.

    Args:
        x: ``[R, in]``, fp32 or bf16; any stride between rows.
        panels: the int8 weight, from ``to_panels``.
        scale: fp32, the scale of each column, padded to whole panels.
        sums: fp32, the sum of the numbers of each column, padded likewise.
        smooth: fp32 ``[in]``.
        bias: fp32 ``[columns]``, or None.
        residual: ``[R, columns]`` of ``dtype``, or None.
        columns: output size.
        activation: a key of ``layers.ACTIVATIONS``.
        dtype: of the output, fp32 or that of ``x``.

    Returns:
        ``[R, columns]``.
    """
    weight = from_panels(panels, columns, x.shape[1])
    out = ACTIVATIONS[activation](quantized_linear(x, weight, scale[:columns], smooth, bias))
    return (out if residual is None else residual + out).to(dtype)


@panel_linear_int8.register_fake
def _(
    x: Tensor,
    panels: Tensor,
    scale: Tensor,
    sums: Tensor,
    smooth: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    columns: int,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty((x.shape[0], columns), dtype=dtype)


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    x, out = tensors["x"], tensors["out"]
    assert x is not None and out is not None
    weight = ", ".join(pointer(tensors[name]) for name in ("panels", "scale", "sums"))
    sizes = f"{{{x.sizes[0]}, {arguments['columns']}, {x.sizes[1]}, {x.strides[0]}}}"
    activation = f"precast::{ACTIVATION_TYPES[arguments['activation']]}"
    return (
        f"precast::linear_int8<{activation}, {NUMBERS[x.dtype]}, {NUMBERS[out.dtype]}>("
        f"{x.at}, {pointer(tensors['smooth'])}, {{{weight}}}, {pointer(tensors['bias'])}, "
        f"{pointer(tensors['residual'])}, {out.at}, {sizes});"
    )


LINEAR_INT8 = Kernel(torch.ops.precast.panel_linear_int8.default, "linear_int8.h", {"x": 1}, _call)


class PanelLinearInt8(nn.Module):
    """``QuantizedLinear`` with its weights in panels."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self.columns, self.activation, self.dtype = linear.weight.shape[0], linear.activation, linear.dtype
        padding = (0, -self.columns % PANEL)
        self.panels: Tensor
        self.scale: Tensor
        self.sums: Tensor
        self.smooth: Tensor
        self.bias: Tensor | None
        self.register_buffer("panels", to_panels(linear.weight))
        self.register_buffer("scale", F.pad(linear.scale, padding))
        self.register_buffer("sums", F.pad(linear.weight.sum(1, dtype=torch.float32), padding))
        self.register_buffer("smooth", linear.smooth)
        self.register_buffer("bias", linear.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out: Tensor = panel_linear_int8(
            x,
            self.panels,
            self.scale,
            self.sums,
            self.smooth,
            self.bias,
            residual,
            self.columns,
            self.activation,
            self.dtype,
        )
        return out
