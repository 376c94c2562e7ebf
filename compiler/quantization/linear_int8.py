"""Linear layers with int8 weights in plain torch, which define the result of the kernels for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.compiler.models.layers import ACTIVATIONS

LEVELS = 255
"""Steps between the minimum and the maximum of a quantized row."""


class QuantizedLinear(nn.Module):
    """``residual + activation(x @ weight.T + bias)`` with both factors of the product rounded to eight bits.

    Weights are symmetric ``int8 * scale``, with one scale per output column. Each row of ``x`` is quantized
    dynamically to ``0 .. 255`` with its own scale and zero point. Before that its columns are multiplied by
    ``smooth``, whose inverse is part of the weights, to balance the ranges of both factors as in SmoothQuant
    (Xiao et al., 2023, equation 4 with alpha = 0.5).

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
        amax: ``[in]``, the largest magnitude of each column of ``x`` during calibration.
        activation: a key of ``layers.ACTIVATIONS``.
        dtype: of the output; default that of the weight.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        amax: Tensor,
        activation: str = "identity",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.dtype = activation, dtype or weight.dtype
        wide = weight.detach().float()
        factors = _smoothing_factors(wide.abs().amax(0), amax.float())
        smoothed = wide * factors
        scale = (smoothed.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.weight: Tensor
        self.scale: Tensor
        self.smooth: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", (smoothed / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("smooth", 1 / factors)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        product = quantized_linear(x, self.weight, self.scale, self.smooth, self.bias)
        out = ACTIVATIONS[self.activation](product)
        return (out if residual is None else residual + out).to(self.dtype)


def quantized_linear(x: Tensor, weight: Tensor, scale: Tensor, smooth: Tensor, bias: Tensor | None) -> Tensor:
    """The quantized product of ``QuantizedLinear``, with exact sums over each row.

    Args:
        x: ``[R, in]``.
        weight: int8 ``[out, in]``.
        scale: fp32 ``[out]``.
        smooth: fp32 ``[in]``.
        bias: fp32 ``[out]``, or None.

    Returns:
        fp32 ``[R, out]``.
    """
    smoothed = x.float() * smooth
    least = smoothed.amin(-1, keepdim=True).clamp(max=0)
    greatest = smoothed.amax(-1, keepdim=True).clamp(min=0)
    step = ((greatest - least) / LEVELS).clamp(min=1e-30)
    zero = (-least / step).round()
    rounded = (smoothed * (1 / step) + zero).round().clamp(0, LEVELS) - zero
    product = (rounded.double() @ weight.double().T).float() * (step * scale)
    return product if bias is None else product + bias


def _smoothing_factors(weight_amax: Tensor, input_amax: Tensor) -> Tensor:
    """Factors of the weight's columns, by which those of the input are divided."""
    inputs = input_amax.clamp(min=float(input_amax.max()) * 1e-3).clamp(min=1e-6)
    weights = weight_amax.clamp(min=float(weight_amax.max()) * 1e-3).clamp(min=1e-6)
    factors = (inputs / weights).sqrt()
    return factors / factors.mean()
