"""Replaces layers of a module with those that have a C++ kernel."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.kernels.avx512.linear import GROUPS, PanelLinear
from precast.compiler.kernels.avx512.linear_int8 import PanelLinearInt8
from precast.compiler.kernels.avx512.log_softmax import CppLogSoftmaxTerms
from precast.compiler.kernels.avx512.norm import CppNorm
from precast.compiler.kernels.replace_modules import replace_modules
from precast.compiler.models.decoder import LanguageHead, ScaledHead
from precast.compiler.models.layers import ActivatedLinear, Norm
from precast.compiler.quantization.linear_int8 import QuantizedLinear
from precast.compiler.sampling.log_softmax import LogSoftmaxTerms

Module = TypeVar("Module", bound=nn.Module)
WhichLinear = Literal["all", "quantized", "none"]


def with_cpp_layers(module: Module, linear: WhichLinear) -> Module:
    """Copy ``module`` with layers in C++; the copy shares the tensors of all other layers.

    Norms are replaced if any linear layer is: both have weights that the graph must keep.

    Args:
        module: to copy.
        linear: which linear layers to replace. ``quantized`` leaves the others to Inductor's autotuning.
    """
    replacements = {"all": _replace_all, "quantized": _replace_quantized, "none": _replace_weightless}
    return replace_modules(module, replacements[linear])


def _replace_weightless(_: str, layer: nn.Module) -> nn.Module | None:
    return CppLogSoftmaxTerms() if isinstance(layer, LogSoftmaxTerms) else None


def _replace_quantized(name: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, QuantizedLinear):
        return PanelLinearInt8(layer)
    return CppNorm(layer) if isinstance(layer, Norm) else _replace_weightless(name, layer)


def _replace_all(name: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, LanguageHead) and _has_whole_groups(layer.table.weight):
        out = PanelLinear(
            layer.table.weight, layer.bias, dtype=torch.float32
        )  # logits are not rounded to bf16
        return ScaledHead(layer, out)
    if isinstance(layer, nn.Linear) and _has_whole_groups(layer.weight):
        activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
        return PanelLinear(layer.weight, layer.bias, activation)
    return _replace_quantized(name, layer)


def _has_whole_groups(weight: Tensor) -> bool:
    """Whether input rows consist of whole groups; else the last one would extend into the next row."""
    return weight.shape[1] % GROUPS[weight.dtype] == 0
