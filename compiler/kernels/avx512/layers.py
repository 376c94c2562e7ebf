"""A model with its linear layers in panels."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.kernels.avx512.linear import GROUPS, PanelLinear
from precast.compiler.kernels.avx512.linear_int8 import PanelLinearInt8
from precast.compiler.kernels.rebuilt import rebuilt
from precast.compiler.model.decoder import LanguageHead
from precast.compiler.model.layers import ActivatedLinear
from precast.compiler.model.quantized import QuantizedLinear

Module = TypeVar("Module", bound=nn.Module)


class PanelHead(nn.Module):
    """``LanguageHead``, its logits never rounded to less than fp32."""

    def __init__(self, head: LanguageHead) -> None:
        super().__init__()
        self.scale = head.scale
        self.out = PanelLinear(head.table.weight, head.bias, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x * self.scale if self.scale != 1.0 else x)
        return logits


def with_panels(module: Module, *, searched: bool = False) -> Module:
    """A copy whose linear layers lie in panels, and all else over the same tensors.

    Args:
        module: to copy.
        searched: whether Inductor searches for the products of layers that are not quantized: those it keeps.
    """
    return rebuilt(module, _quantized_in_panels if searched else _in_panels)


def _quantized_in_panels(_: str, layer: nn.Module) -> nn.Module | None:
    return PanelLinearInt8(layer) if isinstance(layer, QuantizedLinear) else None


def _in_panels(_: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, QuantizedLinear):
        return PanelLinearInt8(layer)
    if isinstance(layer, LanguageHead) and _whole_groups(layer.table.weight):
        return PanelHead(layer)
    if isinstance(layer, nn.Linear) and _whole_groups(layer.weight):
        activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
        return PanelLinear(layer.weight, layer.bias, activation)
    return None


def _whole_groups(weight: Tensor) -> bool:
    """Whether a row of the input is whole groups; the last one would reach into the next row otherwise."""
    return weight.shape[1] % GROUPS[weight.dtype] == 0
