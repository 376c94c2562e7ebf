"""Traces a module with symbolic sizes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from precast.compiler.errors import LoweringError
from precast.graphs.encode import LENGTH, SEQUENCES, TOKENS
from precast.graphs.sampling import (
    BEAMS,
    BIAS_PREFIX,
    CANDIDATES,
    GROUPS,
    NGRAM,
    SAMPLED,
    TOKEN_BIASES,
    VOCAB,
)
from precast.graphs.seq2seq import (
    CROSS_CACHE,
    MAX_NUM_SEQS,
    MAX_SOURCE_LENGTH,
    MAX_TARGET_LENGTH,
    NUM_SEQS,
    SELF_CACHE,
    SELF_LENGTH,
    SOURCE_LENGTH,
)
from precast.graphs.signature import Signature, split_dim

_EXAMPLES = {
    TOKENS: 12, SEQUENCES: 3, LENGTH: 7, NUM_SEQS: 6, SELF_CACHE: 40, CROSS_CACHE: 48, SELF_LENGTH: 9,
    SOURCE_LENGTH: 11, SAMPLED: 5, GROUPS: 4, BEAMS: 3, CANDIDATES: 13, TOKEN_BIASES: 10, BIAS_PREFIX: 8,
    NGRAM: 14, MAX_NUM_SEQS: 16, MAX_TARGET_LENGTH: 21, MAX_SOURCE_LENGTH: 23, VOCAB: 150,
}  # fmt: skip


def example_sizes(signature: Signature, size: int | None = None) -> dict[str, int]:
    """Return an example size for each axis; all differ as far as the limits allow.

    Tracing would treat axes of the same size as one axis.

    Args:
        signature: Signature of the graph.
        size: Size on the buckets' axis, which kernels are tuned for; default a small one.
    """
    bucketed = signature.axes[0].name
    sizes = _EXAMPLES | {bucketed: size or _EXAMPLES[bucketed]}
    sizes[SEQUENCES] = max(3, sizes[TOKENS] // 128)
    return {axis.name: min(max(sizes[axis.name], axis.minimum), axis.maximum) for axis in signature.axes}


def example_inputs(
    signature: Signature, size: int | None = None, device: str | torch.device = "cpu"
) -> dict[str, torch.Tensor]:
    """Return a batch for ``signature``: two sequences, further empty ones, and unused tokens at the end."""
    sizes = example_sizes(signature, size)
    tensors = {
        buffer.name: torch.zeros(buffer.sizes(sizes), dtype=buffer.torch_dtype, device=device)
        for buffer in signature.inputs
    }
    if "cu_seqlens" in tensors:
        first = min(sizes.get(LENGTH, 7), sizes[TOKENS])
        tensors["cu_seqlens"][1:2] = first
        tensors["cu_seqlens"][2:] = min(sizes[TOKENS], first + 4)
    for name in {"key_positions", "self_span", "cross_span"} & tensors.keys():
        tensors[name].copy_(torch.arange(len(tensors[name])))
    return tensors


def trace(
    module: nn.Module,
    signature: Signature,
    size: int | None = None,
    device: str | torch.device = "cpu",
) -> ExportedProgram:
    """Return the graph of a module from ``torch.export``, with every axis of ``signature`` symbolic.

    Args:
        module: Module with its tensors on ``device``.
        signature: Names, shapes and limits of the inputs.
        size: As for ``example_sizes``.
        device: Device of the example inputs.

    Raises:
        LoweringError: The module cannot be traced for all sizes.
    """
    # An axis with a single possible size is a constant.
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
            module,
            (),
            kwargs=_as_kwargs(module, example_inputs(signature, size, device)),
            dynamic_shapes=_as_kwargs(module, shapes),
            strict=False,
        )
    except Exception as error:  # torch.export raises many kinds; each means that tracing failed
        raise LoweringError(f"graph {signature.graph} cannot be traced: {error}") from error


def _as_kwargs(module: nn.Module, by_name: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of ``forward``.

    ``forward`` takes all buffers in a mapping ``buffers``, or some by name and the others as a list
    ``kv_cache``.
    """
    parameters = set(inspect.signature(module.forward).parameters)
    if parameters == {"buffers"}:
        return {"buffers": by_name}
    kwargs = {name: value for name, value in by_name.items() if name in parameters}
    kv_cache = [value for name, value in by_name.items() if name not in parameters]
    return kwargs | ({"kv_cache": kv_cache} if kv_cache else {})
