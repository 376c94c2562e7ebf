"""Linear layers with weights of eight bits, in plain torch: what the kernels for them shall give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.compiler.models.layers import ACTIVATIONS

LEVELS = 255
"""Steps between the least and the greatest number of a quantized row."""


class QuantizedLinear(nn.Module):
    """``residual + activation(x @ weight.T + bias)`` with both factors of the product rounded to eight bits.

    A weight is ``int8 * scale`` of its column. A row of ``x`` is quantized as it comes, to ``0 .. 255`` with
    a scale and a zero of its own. Before, each of its numbers is multiplied by ``smooth``, whose inverse is
    part of the weights: it shares out between the two what is hard to round, as SmoothQuant does (Xiao et
    al., 2023, equation 4 with alpha = 0.5).

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
        amax: ``[in]``, the largest magnitude that was seen of each number of ``x``.
        activation: a key of ``layers.ACTIVATIONS``.
        dtype: of the result; that of the weight where left out.
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
        balance = _balance(wide.abs().amax(0), amax.float())
        balanced = wide * balance
        scale = (balanced.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.weight: Tensor
        self.scale: Tensor
        self.smooth: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", (balanced / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("smooth", 1 / balance)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        found = ACTIVATIONS[self.activation](
            quantized_linear(x, self.weight, self.scale, self.smooth, self.bias)
        )
        return (found if residual is None else residual + found).to(self.dtype)


def quantized_linear(x: Tensor, weight: Tensor, scale: Tensor, smooth: Tensor, bias: Tensor | None) -> Tensor:
    """fp32 ``[R, out]``; the sum over a row is exact.

    Args:
        x: ``[R, in]``.
        weight: int8 ``[out, in]``.
        scale: fp32 ``[out]``.
        smooth: fp32 ``[in]``.
        bias: fp32 ``[out]``, or None.
    """
    smoothed = x.float() * smooth
    least = smoothed.amin(-1, keepdim=True).clamp(max=0)
    most = smoothed.amax(-1, keepdim=True).clamp(min=0)
    step = ((most - least) / LEVELS).clamp(min=1e-30)
    zero = (-least / step).round()
    rounded = (smoothed * (1 / step) + zero).round().clamp(0, LEVELS) - zero
    product = (rounded.double() @ weight.double().T).float() * (step * scale)
    return product if bias is None else product + bias


def _balance(of_weight: Tensor, of_input: Tensor) -> Tensor:
    """What weights are multiplied and inputs divided by; what was never seen counts as a small number."""
    seen = of_input.clamp(min=float(of_input.max()) * 1e-3).clamp(min=1e-6)
    weights = of_weight.clamp(min=float(of_weight.max()) * 1e-3).clamp(min=1e-6)
    balance = (seen / weights).sqrt()
    return balance / balance.mean()
