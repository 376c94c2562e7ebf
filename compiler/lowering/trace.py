"""Tracing a module with symbolic sizes."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from precast.compiler.errors import LoweringError
from precast.graphs.signature import Signature, split_dim

# Sizes to trace with: different for each axis, so that no two of them are taken for one.
_EXAMPLE_SIZES = {"tokens": 12, "sequences": 3, "length": 7}


def example_inputs(signature: Signature) -> dict[str, torch.Tensor]:
    """A small batch that fits ``signature``: three sequences of 7, 4 and 0 tokens, one spare token."""
    sizes = {axis.name: min(_EXAMPLE_SIZES[axis.name], axis.maximum) for axis in signature.axes}
    tensors = {
        buffer.name: torch.zeros(buffer.sizes(sizes), dtype=buffer.torch_dtype) for buffer in signature.inputs
    }
    longest = sizes["length"]
    used = min(sizes["tokens"], longest + 4)
    ends = torch.full((sizes["sequences"],), used, dtype=torch.int32)
    ends[0] = min(longest, used)
    tensors["cu_seqlens"][1:] = ends
    tensors["key_positions"].copy_(torch.arange(longest))
    return tensors


def trace(module: nn.Module, signature: Signature) -> ExportedProgram:
    """``torch.export`` with every axis of ``signature`` symbolic.

    Raises:
        LoweringError: the module cannot be traced for all sizes.
    """
    # An axis that has room for its minimum alone is a constant.
    roots = {
        axis.name: Dim(axis.name, min=axis.minimum, max=axis.maximum)
        for axis in signature.axes
        if axis.minimum < axis.maximum
    }
    shapes = {
        buffer.name: {
            at: roots[name] + extra if extra else roots[name]
            for at, dim in enumerate(buffer.shape)
            if isinstance(dim, str)
            for name, extra in [split_dim(dim)]
            if name in roots
        }
        for buffer in signature.inputs
    }
    try:
        return torch.export.export(
            module, (), kwargs=example_inputs(signature), dynamic_shapes=shapes, strict=False
        )
    except Exception as error:  # torch.export raises many kinds; each means that tracing failed
        raise LoweringError(f"graph {signature.graph} cannot be traced: {error}") from error
