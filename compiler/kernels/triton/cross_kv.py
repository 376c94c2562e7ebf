"""Projects a source's hidden states to keys and values and writes them to the cross-attention KV cache."""

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
    """Program 1 selects the tokens, program 0 the columns: first those of keys, then those of values."""
    token = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns: tl.constexpr = (WIDTH + BLOCK_N - 1) // BLOCK_N
    part = tl.program_id(0) // columns
    column = tl.program_id(0) % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    token_mask, column_mask = token < tokens, column < WIDTH
    inner = tl.arange(0, BLOCK_K)
    token64 = tl.cast(token, tl.int64)
    output = tl.cast(part * WIDTH + column, tl.int64)
    total = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for first in range(0, IN, BLOCK_K):
        k = first + inner
        k_mask = k < IN
        a = tl.load(
            hidden + token64[:, None] * hidden_row_stride + k[None, :],
            mask=token_mask[:, None] & k_mask[None, :],
            other=0.0,
        )
        b = tl.load(
            weight + output[None, :] * IN + k[:, None],
            mask=column_mask[None, :] & k_mask[:, None],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + output, mask=column_mask, other=0.0).to(tl.float32)[None, :]
    slot = tl.cast(tl.load(slots + token, mask=token_mask, other=0), tl.int64)
    at = slot[:, None] * WIDTH + column[None, :]
    projected, mask = total.to(key_cache.dtype.element_ty), token_mask[:, None] & column_mask[None, :]
    if part == 0:
        tl.store(key_cache + at, projected, mask=mask)
    else:
        tl.store(value_cache + at, projected, mask=mask)


def launch_project(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Launch ``project_cross_kv`` without checks."""
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
    """Write ``hidden @ weight.T + bias`` to ``slots`` of a layer's KV cache.

    Args:
        hidden: ``[T, in]``; fp32, fp16 or bf16, like all others; any stride between tokens.
        weight: ``[2 * heads * head_dim, in]``, contiguous; rows for keys, then rows for values.
        bias: ``[2 * heads * head_dim]``, or None.
        key_cache: ``[slots, heads, head_dim]``, contiguous; changed in place.
        value_cache: like ``key_cache``.
        slots: int32 ``[T]``. If a slot occurs twice, it receives either token's keys and values.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    dtypes = {tensor.dtype for tensor in (hidden, weight, key_cache, value_cache)}
    if len(dtypes) > 1 or hidden.dtype not in DTYPES or (bias is not None and bias.dtype != hidden.dtype):
        raise ValueError(f"hidden, weight, bias and KV cache share one of {DTYPES}, not {dtypes}")
    width = key_cache.shape[1] * key_cache.shape[2]
    if key_cache.shape != value_cache.shape or weight.shape != (2 * width, hidden.shape[1]):
        shapes = f"{tuple(hidden.shape)}, {tuple(weight.shape)}, {tuple(key_cache.shape)}"
        raise ValueError(f"the shapes of hidden, weight and KV cache do not match: {shapes}")
    if slots.dtype != torch.int32 or slots.shape[0] != hidden.shape[0]:
        raise ValueError(f"slots must be int32 [{hidden.shape[0]}], not {slots.dtype} {tuple(slots.shape)}")
    contiguous = weight.is_contiguous() and key_cache.is_contiguous() and value_cache.is_contiguous()
    if hidden.stride(1) != 1 or not contiguous:
        raise ValueError("weight and KV cache must be contiguous, and the last stride of hidden 1")
    launch_project(hidden, weight, bias, key_cache, value_cache, slots)


def write_source(hidden: Tensor, kv: nn.Linear, slots: Tensor, cache: KVCache) -> None:
    """Implements ``decode_ops.SourceWriter``."""
    project_cross_kv(hidden, kv.weight, kv.bias, cache.key, cache.value, slots)


def project_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """``project_cross_kv`` in plain torch, in at least fp32."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    projected = hidden.to(wide) @ weight.to(wide).T
    projected = projected if bias is None else projected + bias.to(wide)
    keys, values = projected.to(key_cache.dtype).view(len(hidden), 2, *key_cache.shape[1:]).unbind(1)
    key_cache[slots.long()] = keys
    value_cache[slots.long()] = values
