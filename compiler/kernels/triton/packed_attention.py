"""Self-attention over a packed batch: the operator, its tiles and a plain-torch reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from precast.compiler.kernels.triton.launch import launch
from precast.compiler.kernels.triton.packed_attention_kernel import packed_attention_kernel

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_HEAD = 256


@dataclass(frozen=True)
class Tile:
    """The tile of one program.

    Attributes:
        queries: tokens of a program, a power of two from 16.
        keys: keys in one iteration of its loop, a power of two from 16.
        warps: warps of 32 threads.
        stages: depth of the software pipeline that prefetches keys and values.
    """

    queries: int
    keys: int
    warps: int
    stages: int


def block_of_head(head_dim: int) -> int:
    """The width of a tile that holds a head: the next power of two, at least the 16 of a matrix unit."""
    return max(16, triton.next_power_of_2(head_dim))


def tile_for(dtype: torch.dtype, block_d: int, biased: bool) -> Tile:
    """The tile for heads of ``block_d`` numbers.

    Sized so that no registers spill at 255 registers a thread on sm_80, sm_90 and sm_100, and that shared
    memory fits in 99 KiB, the smallest size of the architectures from sm_80 on. A warpgroup of sm_90
    multiplies 64 queries in one instruction; larger tiles would waste work on short texts. A bias takes
    additional registers and shared memory. fp32 does not run on the tensor cores.
    """
    if dtype is torch.float32 and block_d > 128:
        return Tile(queries=16, keys=16, warps=4, stages=2)
    if dtype is torch.float32:
        return Tile(queries=32, keys=32 if block_d <= 32 else 16, warps=8, stages=2)
    keys = min(64, 4096 // block_d)
    return Tile(64, max(16, keys // 2) if biased else keys, warps=4, stages=3 if block_d <= 128 else 2)


def launch_packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begin: Tensor,
    end: Tensor,
    bias: Tensor | None,
    scale: float,
    tile: Tile | None = None,
) -> Tensor:
    """Launch ``packed_attention`` without checks; benchmarks may override the tile."""
    tokens, heads, head_dim = query.shape
    block_d = block_of_head(head_dim)
    tile = tile or tile_for(query.dtype, block_d, bias is not None)
    output = query.new_empty((tokens, heads * head_dim))
    launch(
        packed_attention_kernel,
        (triton.cdiv(tokens, tile.queries), heads),
        query,
        key,
        value,
        begin,
        end,
        bias,
        output,
        tokens,
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        0 if bias is None else bias.shape[1] // 2,
        SCALE=scale,
        HEAD_DIM=head_dim,
        GROUP=heads // key.shape[1],
        BLOCK_D=block_d,
        BLOCK_M=tile.queries,
        BLOCK_N=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return output


def _check(
    query: Tensor, key: Tensor, value: Tensor, begin: Tensor, end: Tensor, bias: Tensor | None, scale: float
) -> None:
    tokens, heads, head_dim = query.shape
    if query.dtype not in DTYPES or key.dtype != query.dtype or value.dtype != query.dtype:
        raise ValueError(
            f"query, key and value share one of {DTYPES}, not {query.dtype}, {key.dtype}, {value.dtype}"
        )
    if not 1 <= head_dim <= LARGEST_HEAD:
        raise ValueError(f"head_dim must be 1 to {LARGEST_HEAD}, not {head_dim}")
    if key.shape != value.shape or key.shape[0] != tokens or key.shape[2] != head_dim or heads % key.shape[1]:
        shapes = f"{tuple(query.shape)}, {tuple(key.shape)}, {tuple(value.shape)}"
        raise ValueError(f"the shapes of query, key and value do not match: {shapes}")
    if any(tensor.stride(2) != 1 for tensor in (query, key, value)):
        raise ValueError("the last stride of query, key and value must be 1")
    for bound in (begin, end):
        if bound.dtype != torch.int32 or bound.shape != (tokens,):
            raise ValueError(
                f"begin and end must be int32 [{tokens}], not {bound.dtype} {tuple(bound.shape)}"
            )
    if bias is not None and (bias.dtype != torch.float32 or bias.shape[0] != heads or bias.shape[1] % 2 == 0):
        raise ValueError(
            f"bias must be fp32 [{heads}, 2 * max_distance + 1], not {bias.dtype} {tuple(bias.shape)}"
        )
    if not scale > 0:
        raise ValueError(f"scale must be positive, not {scale}")


@triton_op("precast::packed_attention", mutates_args={})
def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, begin: Tensor, end: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """``softmax(scale * Q K^T + bias) V``, each token over the keys ``begin[t] <= k < end[t]``.

    ``begin`` and ``end`` express sequence borders, causality and sliding windows. Rows of ``key`` and
    ``value`` that no token sees (of spare tokens) are never read and may hold any values. All others must be
    finite: the tokens of a tile share the rows they read, and zero times NaN is NaN.

    Args:
        query: ``[T, heads, head_dim]``; fp32, fp16 or bf16, like ``key`` and ``value``. All three may be
            views of one projection: any strides but the last, which is 1. ``head_dim`` is 1 to 256.
        key: ``[T, kv_heads, head_dim]``; each is shared by ``heads / kv_heads`` query heads.
        value: like ``key``.
        begin: int32 ``[T]``, the first key of each token.
        end: int32 ``[T]``, one past the last; a token with ``end[t] <= begin[t]`` has no keys.
        bias: fp32 ``[heads, 2 * max_distance + 1]``, added at ``clamp(k - t, -max_distance, max_distance) +
            max_distance``, or None.
        scale: factor of the scores, positive.

    Returns:
        ``[T, heads * head_dim]``, contiguous, of the query's dtype; zero for a token without keys.

    Raises:
        ValueError: for other shapes, strides or dtypes.
    """
    _check(query, key, value, begin, end, bias, scale)
    return launch_packed_attention(query, key, value, begin, end, bias, scale)


def packed_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, begin: Tensor, end: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """``packed_attention`` in plain torch, with scores ``[heads, T, T]``, computed in at least fp32."""
    wide = torch.promote_types(query.dtype, torch.float32)
    position = torch.arange(query.shape[0], device=query.device)
    visible = (begin[:, None] <= position) & (position < end[:, None])
    group = query.shape[1] // key.shape[1]
    keys = key.to(wide).repeat_interleave(group, dim=1)
    # Values that no token sees may be NaN, and zero times NaN is NaN.
    values = value.to(wide).where(visible.any(0)[:, None, None], 0).repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query.to(wide), keys) * scale
    if bias is not None:
        max_distance = bias.shape[1] // 2
        scores = (
            scores
            + bias.to(wide)[
                :, (position - position[:, None]).clamp(-max_distance, max_distance) + max_distance
            ]
        )
    shares = scores.where(visible, -torch.inf).softmax(-1).where(visible, 0)
    return torch.einsum("hqk,khd->qhd", shares, values).flatten(1).to(query.dtype)
