"""The Triton kernel of packed attention: online softmax over each token's range of keys.

A program computes a tile of consecutive tokens, which may belong to several sequences, so the grid depends
only on the number of tokens. ``begin`` and ``end`` express sequence borders, causality and sliding windows.

The softmax is computed in one pass (Milakov & Gimelshein 2018, arXiv 1805.02867), in the loop order of
FlashAttention-2 (arXiv 2307.08691): queries outside, keys inside, one division at the end.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
"""Softmax in powers of two: ``exp(x) = 2**(x * log2(e))``, and ``exp2`` is one instruction."""

LEAST_SCORE = tl.constexpr(-3.0e38)
"""The maximum of no scores. Finite: for a row that has seen no key, ``inf - inf`` would be NaN."""

NO_POSITION = tl.constexpr(2**31 - 1)
"""The minimum of no positions."""


@triton.jit
def _attend(
    output,
    total,
    top,
    query,
    key,
    value,
    key_token_stride,
    value_token_stride,
    bias,
    max_distance,
    rows,
    row_begin,
    row_end,
    start,
    stop,
    limit,
    FACTOR: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    FAR: tl.constexpr,
):
    """Accumulates the keys ``start <= k < stop`` in the running output, sum and maximum of every row.

    Without ``MASKED`` every row with keys sees all of them; with it, keys from ``limit`` on are not read.
    With ``FAR`` all distances are beyond the range of the bias on one side, and ``bias`` points at its value
    there.
    """
    columns = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    key_offsets = columns[None, :] * key_token_stride + dims[:, None]
    value_offsets = columns[:, None] * value_token_stride + dims[None, :]
    for position in range(start, stop, BLOCK_N):
        # 64 bits: a token's offset may exceed 2**31; offsets within a tile do not.
        far = tl.cast(position, tl.int64)
        key_at = (key + far * key_token_stride) + key_offsets
        value_at = (value + far * value_token_stride) + value_offsets
        keys = position + columns
        # Keys that no query of the tile sees may be NaN, and 0 * NaN is NaN: they are not read.
        if MASKED and BLOCK_D != HEAD_DIM:
            k = tl.load(key_at, mask=(keys < limit)[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(value_at, mask=(keys < limit)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        elif MASKED:
            k = tl.load(key_at, mask=(keys < limit)[None, :], other=0.0)
            v = tl.load(value_at, mask=(keys < limit)[:, None], other=0.0)
        elif BLOCK_D != HEAD_DIM:
            k = tl.load(key_at, mask=(dims < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(value_at, mask=(dims < HEAD_DIM)[None, :], other=0.0)
        else:
            k = tl.load(key_at)
            v = tl.load(value_at)
        scores = tl.dot(query, k, input_precision="ieee")
        if bias is not None:
            if FAR:
                added = tl.load(bias)
            else:
                distance = keys[None, :] - rows[:, None]
                added = tl.load(
                    bias + max_distance + tl.minimum(tl.maximum(distance, -max_distance), max_distance)
                )
            scores = scores * FACTOR + added * LOG2_E
        if MASKED:
            visible = (keys[None, :] >= row_begin[:, None]) & (keys[None, :] < row_end[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        if bias is None:
            # The factor is positive, so scaling the maximum is equivalent to scaling every score.
            new_top = tl.maximum(top, tl.max(scores, 1) * FACTOR)
            weights = tl.exp2(scores * FACTOR - new_top[:, None])
        else:
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        output = output * shrink[:, None]
        output = tl.dot(weights.to(v.dtype), v, output, input_precision="ieee")
        top = new_top
    return output, total, top


@triton.jit
def packed_attention_kernel(
    query,
    key,
    value,
    begin,
    end,
    bias,
    output,
    tokens,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    max_distance,
    SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    first = tl.program_id(0) * BLOCK_M
    inside = tl.arange(0, BLOCK_M)
    rows = first + inside
    dims = tl.arange(0, BLOCK_D)

    row_begin = tl.load(begin + rows, mask=rows < tokens, other=0)
    row_end = tl.load(end + rows, mask=rows < tokens, other=0)
    has_keys = row_begin < row_end
    least = tl.min(tl.where(has_keys, row_begin, NO_POSITION), 0)
    greatest = tl.max(tl.where(has_keys, row_end, 0), 0)
    # Every row with keys sees `common_begin <= k < common_end`; results of rows without keys are discarded.
    common_begin = tl.max(tl.where(has_keys, row_begin, 0), 0)
    common_end = tl.min(tl.where(has_keys, row_end, NO_POSITION), 0)
    middle = least + tl.cdiv(tl.maximum(common_begin - least, 0), BLOCK_N) * BLOCK_N
    right = middle + tl.maximum(common_end - middle, 0) // BLOCK_N * BLOCK_N

    far = tl.cast(first, tl.int64)
    query_at = query + far * query_token_stride + head * query_head_stride
    query_at += inside[:, None] * query_token_stride + dims[None, :]
    inner = (rows < tokens)[:, None]
    if BLOCK_D != HEAD_DIM:
        inner = inner & (dims < HEAD_DIM)[None, :]
    q = tl.load(query_at, mask=inner, other=0.0)
    key += (head // GROUP) * key_head_stride
    value += (head // GROUP) * value_head_stride
    if bias is not None:
        bias += head * (2 * max_distance + 1)

    FACTOR: tl.constexpr = SCALE * LOG2_E
    result = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    top = tl.full([BLOCK_M], LEAST_SCORE, dtype=tl.float32)
    # fmt: off
    result, total, top = _attend(
        result, total, top, q, key, value, key_token_stride, value_token_stride, bias, max_distance,
        rows, row_begin, row_end, least, middle, greatest,
        FACTOR, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED=True, FAR=False,
    )
    near = middle
    near_end = right
    if bias is not None:
        # Blocks before `near` and from `near_end` on are beyond the range of the bias for every row.
        before = tl.maximum(first - max_distance + 1, middle) - middle
        after = tl.maximum(first + BLOCK_M - 1 + max_distance, middle) - middle
        near = tl.minimum(middle + before // BLOCK_N * BLOCK_N, right)
        near_end = tl.minimum(middle + tl.cdiv(after, BLOCK_N) * BLOCK_N, right)
        result, total, top = _attend(
            result, total, top, q, key, value, key_token_stride, value_token_stride, bias, max_distance,
            rows, row_begin, row_end, middle, near, greatest,
            FACTOR, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED=False, FAR=True,
        )
    result, total, top = _attend(
        result, total, top, q, key, value, key_token_stride, value_token_stride, bias, max_distance,
        rows, row_begin, row_end, near, near_end, greatest,
        FACTOR, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED=False, FAR=False,
    )
    if bias is not None:
        result, total, top = _attend(
            result, total, top, q, key, value, key_token_stride, value_token_stride, bias + 2 * max_distance,
            max_distance, rows, row_begin, row_end, near_end, right, greatest, FACTOR, HEAD_DIM, BLOCK_D,
            BLOCK_N, MASKED=False, FAR=True,
        )
    result, total, top = _attend(
        result, total, top, q, key, value, key_token_stride, value_token_stride, bias, max_distance,
        rows, row_begin, row_end, right, greatest, greatest,
        FACTOR, HEAD_DIM, BLOCK_D, BLOCK_N, MASKED=True, FAR=False,
    )
    # fmt: on
    total = tl.where(has_keys, total, 1.0)
    result = tl.where(has_keys[:, None], result / total[:, None], 0.0)
    output_at = output + far * heads * HEAD_DIM + head * HEAD_DIM
    output_at += inside[:, None] * (heads * HEAD_DIM) + dims[None, :]
    tl.store(output_at, result.to(output.dtype.element_ty), mask=inner)
