"""A linear layer for small batches, which reading the weights dominates.

The tiles of a large matrix product would leave most of a device idle: 2,048 columns are 32 tiles of 64, and
an H100 has 132 multiprocessors. Here each program computes a few columns, and weights are read once.
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
"""Rows of a program, the smallest size of a matrix unit; fewer take the same time."""
MAX_COLUMNS = 8192
"""Wider layers have a tile of 64 columns for every multiprocessor, and benefit from wider loads."""
_NARROW = 4096
"""Up to this width a program computes 16 columns, else 32: about as many programs as can be resident."""


@triton.jit
def small_batch_linear_kernel(
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
    """Program 0 selects the columns, program 1 the rows."""
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    row_mask, column_mask = row < rows, column < OUT
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, IN, BLOCK_K):
        k = first + inner
        k_mask = k < IN
        a = tl.load(
            x + row[:, None] * x_row_stride + k[None, :], mask=row_mask[:, None] & k_mask[None, :], other=0.0
        )
        # 64 bits: the offset of a weight may exceed 2**31.
        at = weight + tl.cast(column, tl.int64)[None, :] * IN + k[:, None]
        b = tl.load(at, mask=column_mask[None, :] & k_mask[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + column, mask=column_mask, other=0.0).to(tl.float32)[None, :]
    at = output + row[:, None] * OUT + column[None, :]
    tl.store(at, total.to(output.dtype.element_ty), mask=row_mask[:, None] & column_mask[None, :])


def launch_small_batch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Launch ``small_batch_linear`` without checks."""
    columns, inner = weight.shape
    output = x.new_empty((x.shape[0], columns))
    block_n = 16 if columns <= _NARROW else 32
    launch(
        small_batch_linear_kernel,
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


@triton_op("precast::small_batch_linear", mutates_args={})
def small_batch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``; the weights are read once for every 16 rows.

    Args:
        x: ``[R, in]``; fp32, fp16 or bf16, like all others; any stride between rows.
        weight: ``[out, in]``, contiguous.
        bias: ``[out]``, or None.

    Returns:
        ``[R, out]``, same dtype as ``x``, accumulated in fp32.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    if x.dtype not in DTYPES or weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise ValueError(f"x, weight and bias share one of {DTYPES}, not {x.dtype} and {weight.dtype}")
    if x.shape[1] != weight.shape[1] or (bias is not None and bias.shape[0] != weight.shape[0]):
        raise ValueError(f"the shapes of x and weight do not match: {tuple(x.shape)}, {tuple(weight.shape)}")
    if x.stride(1) != 1 or not weight.is_contiguous():
        raise ValueError("the last stride of x must be 1, and weight must be contiguous")
    return launch_small_batch_linear(x, weight, bias)


class SmallBatchLinear(nn.Module):
    """``nn.Linear`` with the small-batch kernel, and the same parameters under the same names."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.activation = linear.activation if isinstance(linear, ActivatedLinear) else "identity"

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = ACTIVATIONS[self.activation](small_batch_linear(x, self.weight, self.bias))
        return out if residual is None else residual + out


Module = TypeVar("Module", bound=nn.Module)


def with_small_batch_linear(module: Module) -> Module:
    """Copy ``module`` with small-batch kernels in linear layers of up to ``MAX_COLUMNS``, sharing tensors."""
    return replace_modules(module, _replace_linear)


def _replace_linear(_: str, layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, nn.Linear) and layer.out_features <= MAX_COLUMNS:
        return SmallBatchLinear(layer)
    return None


def small_batch_linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``small_batch_linear`` in plain torch, in at least fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.to(wide) @ weight.to(wide).T
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)
