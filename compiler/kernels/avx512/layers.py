"""A model with its linear layers in panels."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.kernels.avx512.linear import GROUPS, PanelLinear
from precast.compiler.kernels.avx512.linear_int8 import PanelLinearInt8
from precast.compiler.kernels.rebuilt import rebuilt
from precast.compiler.model.decoder import LanguageHead, ScaledHead
from precast.compiler.model.layers import ActivatedLinear
from precast.compiler.model.quantized import QuantizedLinear

Module = TypeVar("Module", bound=nn.Module)


def with_panels(module: Module, *, searched: bool = False) -> Module:
    """A copy whose linear layers lie in panels, and all else over the same tensors.

    Args:
        module: to copy.
        searched: whether Inductor searches for the products of layers that are not quantized: those it keeps.
    """
    return rebuilt(module, _quantized_in_panels if searched else _in_panels)


def _quantized_in_panels(_: str, layer: nn.Module) -> nn.Module | None:
    return PanelLinearInt8(layer) if isinstance(layer, QuantizedLinear) else None


def _in_panels(name: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, LanguageHead) and _whole_groups(layer.table.weight):
        out = PanelLinear(layer.table.weight, layer.bias, dtype=torch.float32)  # never rounded to less
        return ScaledHead(layer, out)
    if isinstance(layer, nn.Linear) and _whole_groups(layer.weight):
        activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
        return PanelLinear(layer.weight, layer.bias, activation)
    return _quantized_in_panels(name, layer)


def _whole_groups(weight: Tensor) -> bool:
    """Whether a row of the input is whole groups; the last one would reach into the next row otherwise."""
    return weight.shape[1] % GROUPS[weight.dtype] == 0
