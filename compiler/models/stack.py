"""The encoder's stack of layers."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from precast.compiler.models import spec
from precast.compiler.models.layers import Layer, Norm, RelativeBias, RotaryTable
from precast.compiler.models.packed_ops import PackedLayout, PackedOps


class Stack(nn.Module):
    """A sequence of layers. Masks and rotary tables are computed once for all layers that share them."""

    def __init__(self, hidden: int, stack: spec.StackSpec) -> None:
        super().__init__()
        self.spec = stack
        owners = sorted(set(stack.parameters_of))
        self.layers = nn.ModuleDict({str(i): Layer(hidden, stack.layers[i]) for i in owners})
        heads = stack.layers[0].attention.heads
        self.relative_bias = RelativeBias(heads, stack.relative_bias) if stack.relative_bias else None
        self.final_norm = Norm(hidden, stack.final_norm) if stack.final_norm else None
        kinds = dict.fromkeys(layer.attention.rotary for layer in stack.layers)
        self._rotary_kinds = [kind for kind in kinds if kind is not None]
        self.rotary = nn.ModuleList(RotaryTable(kind) for kind in self._rotary_kinds)

    def forward(self, x: Tensor, layout: PackedLayout, ops: PackedOps) -> Tensor:
        """Compute hidden states ``[T, hidden]`` from embeddings ``[T, hidden]``."""
        tables = {
            kind: table(layout.position) for kind, table in zip(self._rotary_kinds, self.rotary, strict=True)
        }
        shared_bias = None if self.relative_bias is None else self.relative_bias()
        shared: dict[spec.Window, Any] = {}
        for layer_spec, owner in zip(self.spec.layers, self.spec.parameters_of, strict=True):
            layer = cast(Layer, self.layers[str(owner)])
            window = layer_spec.attention.window
            layer_bias = layer.attention.relative_bias
            if layer_bias is not None:
                visible = ops.visible(window, layer_bias())
            else:
                if window not in shared:
                    shared[window] = ops.visible(window, shared_bias)
                visible = shared[window]
            rotary = layer_spec.attention.rotary
            x = layer(x, ops, visible, tables[rotary] if rotary is not None else None)
        return x if self.final_norm is None else self.final_norm(x)
