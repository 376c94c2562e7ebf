"""Replaces linear layers with int8 ones, after calibration of the magnitudes of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.kernels.replace_modules import replace_modules
from precast.compiler.models.decoder import LanguageHead, ScaledHead
from precast.compiler.models.layers import ActivatedLinear
from precast.compiler.quantization.linear_int8 import QuantizedLinear

Module = TypeVar("Module", bound=nn.Module)


def quantize(module: Module, run: Callable[[], None]) -> Module:
    """Copy ``module`` with int8 weights in the layers of encoder and decoder and in the language head.

    Embeddings, norms and what follows the encoder (pooling, classifiers) are not quantized: they are a small
    part of the work, and errors in the last layers are fully visible in the output.

    Args:
        module: the model.
        run: runs it on typical inputs, for calibration.
    """
    layers = {name: layer for name, layer in module.named_modules() if _is_quantized(name, layer)}
    amax: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(partial(_record_amax, amax, name)) for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return replace_modules(module, partial(_quantized, amax))


def _is_quantized(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, LanguageHead) or (isinstance(layer, nn.Linear) and ".layers." in f".{name}")


def _record_amax(amax: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    largest = inputs[0].abs().float().amax(0)
    amax[name] = torch.maximum(amax[name], largest) if name in amax else largest


def _quantized(amax: dict[str, Tensor], name: str, layer: nn.Module) -> nn.Module | None:
    if name not in amax:
        return None
    if isinstance(layer, LanguageHead):
        table = layer.table.weight
        return ScaledHead(layer, QuantizedLinear(table, layer.bias, amax[name], dtype=torch.float32))
    assert isinstance(layer, nn.Linear)
    activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
    return QuantizedLinear(layer.weight, layer.bias, amax[name], activation)
