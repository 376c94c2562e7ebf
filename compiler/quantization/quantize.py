"""Weights of eight bits: which layers get them, and how far their inputs amax."""

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
    """A copy of ``module`` whose layers of encoder and decoder have weights of eight bits.

    Embeddings, norms and what follows the encoder (pooling, classifiers) stay as they are: they are a small
    part of the work, and the last layers show every error.

    Args:
        module: the model.
        run: runs it on typical inputs, to see how far the inputs of its layers amax.
    """
    layers = {name: layer for name, layer in module.named_modules() if _is_quantized(name, layer)}
    amax: dict[str, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(partial(_look, amax, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return replace_modules(module, partial(_quantized, amax))


def _is_quantized(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, LanguageHead) or (isinstance(layer, nn.Linear) and ".layers." in f".{name}")


def _look(amax: dict[str, Tensor], name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    found = inputs[0].abs().float().amax(0)
    amax[name] = torch.maximum(amax[name], found) if name in amax else found


def _quantized(amax: dict[str, Tensor], name: str, layer: nn.Module) -> nn.Module | None:
    if name not in amax:
        return None
    if isinstance(layer, LanguageHead):
        table = layer.table.weight
        return ScaledHead(layer, QuantizedLinear(table, layer.bias, amax[name], dtype=torch.float32))
    assert isinstance(layer, nn.Linear)
    activation = layer.activation if isinstance(layer, ActivatedLinear) else "identity"
    return QuantizedLinear(layer.weight, layer.bias, amax[name], activation)
