"""Linear layers with fused activation and residual, and weights stored in panels; fp32 and bf16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op

from precast.compiler.kernels.avx512.cpp import NUMBERS, TYPES, Kernel, Operand, pointer
from precast.compiler.models.layers import ACTIVATIONS

PANEL = 64
"""Columns of a panel, as in ``tile.h``."""
GROUPS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
"""Numbers in a group of four bytes."""
ACTIVATION_TYPES = {
    "identity": "Identity", "gelu": "Gelu", "gelu_tanh": "GeluTanh", "gelu_quick": "GeluQuick",
    "silu": "Silu", "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid",
}  # fmt: skip


def to_panels(weight: Tensor) -> Tensor:
    """Reorder a weight ``[out, in]`` as ``[panels, groups, 64, group]``, padded with zeros."""
    group = GROUPS[weight.dtype]
    columns, inner = weight.shape
    padded = F.pad(weight, (0, -inner % group, 0, -columns % PANEL))
    return padded.view(-1, PANEL, padded.shape[1] // group, group).transpose(1, 2).contiguous()


def from_panels(panels: Tensor, columns: int, inner: int) -> Tensor:
    """Restore a weight ``[columns, inner]``: the inverse of ``to_panels``."""
    return panels.transpose(1, 2).reshape(panels.shape[0] * PANEL, -1)[:columns, :inner]


@custom_op("precast::panel_linear", mutates_args=())
def panel_linear(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    columns: int,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """``residual + activation(x @ weight.T + bias)``, summed in fp32.

    Args:
        x: ``[R, in]``; fp32 or bf16; any stride between rows.
        panels: the weight, from ``to_panels``; same dtype as ``x``.
        bias: fp32 ``[columns]``, or None.
        residual: ``[R, columns]`` of ``dtype``, or None.
        columns: output size.
        activation: a key of ``layers.ACTIVATIONS``.
        dtype: of the output, fp32 or that of ``x``.

    Returns:
        ``[R, columns]``.
    """
    weight = from_panels(panels, columns, x.shape[1]).float()
    out = ACTIVATIONS[activation](F.linear(x.float(), weight, bias))
    return (out if residual is None else residual + out).to(dtype)


@panel_linear.register_fake
def _(
    x: Tensor,
    panels: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    columns: int,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty((x.shape[0], columns), dtype=dtype)


def _call(tensors: Mapping[str, Operand | None], arguments: Mapping[str, Any]) -> str:
    x, panels, out = tensors["x"], tensors["panels"], tensors["out"]
    assert x is not None and panels is not None and out is not None
    sizes = f"{{{x.sizes[0]}, {arguments['columns']}, {x.sizes[1]}, {x.strides[0]}}}"
    activation = f"precast::{ACTIVATION_TYPES[arguments['activation']]}"
    addends = ", ".join(pointer(tensors[name]) for name in ("bias", "residual"))
    return (
        f"precast::linear<{TYPES[x.dtype]}, {activation}, {NUMBERS[out.dtype]}>("
        f"{x.at}, {panels.at}, {addends}, {out.at}, {sizes});"
    )


LINEAR = Kernel(torch.ops.precast.panel_linear.default, "linear.h", {"x": 1}, _call)


class PanelLinear(nn.Module):
    """A linear layer with its activation and an optional residual, weights in panels.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``, or None.
        activation: a key of ``layers.ACTIVATIONS``.
        dtype: of the output; default that of the weight.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        activation: str = "identity",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.columns, self.activation, self.dtype = weight.shape[0], activation, dtype or weight.dtype
        self.panels: Tensor
        self.bias: Tensor | None
        self.register_buffer("panels", to_panels(weight.detach()))
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out: Tensor = panel_linear(
            x, self.panels, self.bias, residual, self.columns, self.activation, self.dtype
        )
        return out
