"""A module with those of its layers that we have in C++."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.kernels.avx512.linear import GROUPS, PanelLinear
from precast.compiler.kernels.avx512.linear_int8 import PanelLinearInt8
from precast.compiler.kernels.avx512.log_softmax import CppNormalizer
from precast.compiler.kernels.avx512.norm import CppNorm
from precast.compiler.kernels.replace_modules import replace_modules
from precast.compiler.models.decoder import LanguageHead, ScaledHead
from precast.compiler.models.layers import ActivatedLinear, Norm
from precast.compiler.quantization.linear_int8 import QuantizedLinear
from precast.compiler.sampling.log_softmax import LogSoftmaxTerms

Module = TypeVar("Module", bound=nn.Module)
WhichLinear = Literal["all", "quantized", "none"]


def with_cpp_layers(module: Module, linear: WhichLinear) -> Module:
    """A copy with layers in C++, linear ones in panels, and all else over the same tensors.

    Norms are ours where any linear layer is: both have weights that the graph must keep.

    Args:
        module: to copy.
        linear: which of the linear layers; where Inductor searches for products, it keeps those that it can.
    """
    return replace_modules(
        module, {"all": _any, "quantized": _not_searched_for, "none": _without_weights}[linear]
    )


def _without_weights(_: str, layer: nn.Module) -> nn.Module | None:
    return CppNormalizer() if isinstance(layer, LogSoftmaxTerms) else None


def _not_searched_for(name: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, QuantizedLinear):
        return PanelLinearInt8(layer)
    return CppNorm(layer) if isinstance(layer, Norm) else _without_weights(name, layer)


def _any(name: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, LanguageHead) and _whole_groups(layer.table.weight):
        out = PanelLinear(layer.table.weight, layer.bias, dtype=torch.float32)  # never rounded to less
        return ScaledHead(layer, out)
    if isinstance(layer, nn.Linear) and _whole_groups(layer.weight):
        activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
        return PanelLinear(layer.weight, layer.bias, activation)
    return _not_searched_for(name, layer)


def _whole_groups(weight: Tensor) -> bool:
    """Whether a row of the input is whole groups; the last one would reach into the next row otherwise."""
    return weight.shape[1] % GROUPS[weight.dtype] == 0
