"""The keys and values of a source: projected and written into the blocks of a cache in one go."""

# mypy: allow-untyped-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.library import triton_op

from precast.compiler.kernels.triton.launch import launch
from precast.compiler.kernels.triton.packed_attention import DTYPES
from precast.compiler.models.decode_ops import KVCache


@triton.jit
def project_kernel(
    hidden,
    weight,
    bias,
    key_cache,
    value_cache,
    slots,
    tokens,
    hidden_row_stride,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Tokens of ``program 1``, columns of ``program 0``: first those of keys, then those of values."""
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    part = tl.program_id(0) // columns
    column = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    here, inside = token < tokens, column < WIDTH
    inner = tl.arange(0, BLOCK_K)
    far = tl.cast(token, tl.int64)
    of = tl.cast(part * WIDTH + column, tl.int64)
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, IN, BLOCK_K):
        k = first + inner
        left = k < IN
        a = tl.load(
            hidden + far[:, None] * hidden_row_stride + k[None, :],
            mask=here[:, None] & left[None, :],
            other=0.0,
        )
        b = tl.load(weight + of[None, :] * IN + k[:, None], mask=inside[None, :] & left[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + of, mask=inside, other=0.0).to(tl.float32)[None, :]
    slot = tl.cast(tl.load(slots + token, mask=here, other=0), tl.int64)
    at = slot[:, None] * WIDTH + column[None, :]
    found, mask = total.to(key_cache.dtype.element_ty), here[:, None] & inside[None, :]
    if part == 0:
        tl.store(key_cache + at, found, mask=mask)
    else:
        tl.store(value_cache + at, found, mask=mask)


def launch_project(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """``project_cross_kv``, unchecked."""
    width = weight.shape[0] // 2
    wide = hidden.dtype is torch.float32
    block_m, block_n = (64, 64) if wide else (128, 128)
    launch(
        project_kernel,
        (2 * -(-width // block_n), -(-hidden.shape[0] // block_m)),
        hidden,
        weight,
        bias,
        key_cache,
        value_cache,
        slots,
        hidden.shape[0],
        hidden.stride(0),
        IN=weight.shape[1],
        WIDTH=width,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=32 if wide else 64,
        num_warps=8,
        num_stages=3,
    )


@triton_op("precast::project_cross_kv", mutates_args={"key_cache", "value_cache"})
def project_cross_kv(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Write ``hidden @ weight.T + bias`` to ``slots`` of two kv_cache.

    Args:
        hidden: ``[T, in]``; fp32, fp16 or bf16, like all others. Rows may have any stride.
        weight: ``[2 * heads * head_dim, in]``, contiguous: of keys, then of values.
        bias: ``[2 * heads * head_dim]``, or None.
        key_cache: ``[P, heads, head_dim]``, contiguous; changed in place.
        value_cache: as ``key_cache``.
        slots: int32 ``[T]``. Where one stands twice, either token's numbers may come to stand there.

    Raises:
        ValueError: for shapes, strides or dtypes other than these.
    """
    dtypes = {tensor.dtype for tensor in (hidden, weight, key_cache, value_cache)}
    if len(dtypes) > 1 or hidden.dtype not in DTYPES or (bias is not None and bias.dtype != hidden.dtype):
        raise ValueError(f"hidden, weight, bias and kv_cache share one of {DTYPES}, not {dtypes}")
    width = key_cache.shape[1] * key_cache.shape[2]
    if key_cache.shape != value_cache.shape or weight.shape != (2 * width, hidden.shape[1]):
        shapes = f"{tuple(hidden.shape)}, {tuple(weight.shape)}, {tuple(key_cache.shape)}"
        raise ValueError(f"hidden, weight and kv_cache do not fit each other: {shapes}")
    if slots.dtype != torch.int32 or slots.shape[0] != hidden.shape[0]:
        raise ValueError(f"slots are int32, one a token, not {slots.dtype} {tuple(slots.shape)}")
    contiguous = weight.is_contiguous() and key_cache.is_contiguous() and value_cache.is_contiguous()
    if hidden.stride(1) != 1 or not contiguous:
        raise ValueError("weight and kv_cache are contiguous, the numbers of a token stand side by side")
    launch_project(hidden, weight, bias, key_cache, value_cache, slots)


def write_source(hidden: Tensor, kv: nn.Linear, slots: Tensor, cache: KVCache) -> None:
    """Implements ``model.decode_ops.SourceWriter``."""
    project_cross_kv(hidden, kv.weight, kv.bias, cache.key, cache.value, slots)


def project_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """The same in plain torch, in at least fp32."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    found = hidden.to(wide) @ weight.to(wide).T
    found = found if bias is None else found + bias.to(wide)
    keys, values = found.to(key_cache.dtype).view(len(hidden), 2, *key_cache.shape[1:]).unbind(1)
    key_cache[slots.long()] = keys
    value_cache[slots.long()] = values
