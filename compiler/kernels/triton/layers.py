"""A linear layer over a handful of rows, where reading the weights is all that takes time.

A tile as wide as a large multiplication likes it leaves most of a device without work: 2,048 columns are 32
tiles of 64, an H100 has 132 multiprocessors. Here a program takes a few columns, and weights are read once.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.library import triton_op

from precast.compiler.kernels.replace_modules import replace_modules
from precast.compiler.kernels.triton.launch import launch
from precast.compiler.kernels.triton.packed_attention import DTYPES
from precast.compiler.models.layers import ACTIVATIONS, ActivatedLinear

ROWS = 16
"""That a program takes together, as many as a matrix unit takes at least; fewer cost the same."""
MOST_COLUMNS = 8192
"""Beyond, tiles of 64 columns are a program for each multiprocessor, and wider loads serve better."""
_NARROW = 4096
"""Columns up to which 16 a program are enough programs, and no more than there are places for."""


@triton.jit
def few_rows_kernel(
    x,
    weight,
    bias,
    output,
    rows,
    x_row_stride,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Columns of ``program 0``, rows of ``program 1``."""
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    here, inside = row < rows, column < OUT
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, IN, BLOCK_K):
        k = first + inner
        left = k < IN
        a = tl.load(
            x + row[:, None] * x_row_stride + k[None, :], mask=here[:, None] & left[None, :], other=0.0
        )
        # 64 bits: a weight may lie beyond 2**31 numbers.
        at = weight + tl.cast(column, tl.int64)[None, :] * IN + k[:, None]
        b = tl.load(at, mask=inside[None, :] & left[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    at = output + row[:, None] * OUT + column[None, :]
    tl.store(at, total.to(output.dtype.element_ty), mask=here[:, None] & inside[None, :])


def launch_few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``few_rows_linear``, unchecked."""
    columns, inner = weight.shape
    output = x.new_empty((x.shape[0], columns))
    block_n = 16 if columns <= _NARROW else 32
    launch(
        few_rows_kernel,
        (-(-columns // block_n), (x.shape[0] + ROWS - 1) // ROWS),
        x,
        weight,
        bias,
        output,
        x.shape[0],
        x.stride(0),
        IN=inner,
        OUT=columns,
        BLOCK_M=ROWS,
        BLOCK_N=block_n,
        BLOCK_K=64 if x.dtype is torch.float32 else 128,
        num_warps=4,
        num_stages=4,
    )
    return output


@triton_op("precast::few_rows_linear", mutates_args={})
def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``; the weights are read once for every 16 rows.

    Args:
        x: ``[R, in]``; fp32, fp16 or bf16, like all others. Rows may have any stride.
        weight: ``[out, in]``, contiguous.
        bias: ``[out]``, or None.

    Returns:
        ``[R, out]``, of the dtype of ``x``, summed in fp32.

    Raises:
        ValueError: for shapes, strides or dtypes other than these.
    """
    if x.dtype not in DTYPES or weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ValueError(f"x, weight and bias share one of {DTYPES}, not {x.dtype} and {weight.dtype}")
    if x.shape[1] != weight.shape[1] or (bias is not None and bias.shape[0] != weight.shape[0]):
        raise ValueError(f"x and weight do not fit each other: {tuple(x.shape)}, {tuple(weight.shape)}")
    if x.stride(1) != 1 or not weight.is_contiguous():
        raise ValueError("the numbers of a row must stand side by side, and weights be contiguous")
    return launch_few_rows(x, weight, bias)


class FewRowsLinear(nn.Module):
    """``nn.Linear`` with the same parameters under the same names."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.activation = linear.activation if isinstance(linear, ActivatedLinear) else "identity"

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        found = ACTIVATIONS[self.activation](few_rows_linear(x, self.weight, self.bias))
        return found if residual is None else residual + found


Module = TypeVar("Module", bound=nn.Module)


def with_few_rows(module: Module) -> Module:
    """A copy over the same tensors, whose linear layers of up to 8,192 columns are made for few rows."""
    return replace_modules(module, _for_few_rows)


def _for_few_rows(_: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, nn.Linear) and layer.out_features <= MOST_COLUMNS:
        return FewRowsLinear(layer)
    return None


def few_rows_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same in plain torch, in at least fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    found = x.to(wide) @ weight.to(wide).T
    return (found if bias is None else found + bias.to(wide)).to(x.dtype)
