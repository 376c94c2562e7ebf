"""Triton kernels for the attention of a decode step over the KV cache.

A table gives the slot of each position of a sequence. Loading keys and values, once each, takes most of the
time,
so the kernels are built around these loads: one program computes one head. If there are few sequences,
several programs split the keys of a sequence and a second kernel combines their partial results.

The softmax is computed in one pass (Milakov & Gimelshein 2018, arXiv 1805.02867); partial results are
combined by their maxima and sums (Flash-Decoding, Dao et al. 2023).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from precast.compiler.kernels.triton.packed_attention_kernel import LEAST_SCORE, LOG2_E


@triton.jit
def decode_self_kernel(
    query,
    key,
    value,
    key_cache,
    value_cache,
    slots,
    seq_ids,
    positions,
    bias,
    output,
    part_tops,
    part_totals,
    query_stride,
    key_stride,
    value_stride,
    slots_stride,
    max_distance,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Program 0 selects the sequence, 1 the head, 2 the part; the first part also handles the new token."""
    index, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    seq_id = tl.load(seq_ids + index)
    position = tl.load(positions + seq_id)
    dims = tl.arange(0, BLOCK_D)
    inner = dims < HEAD_DIM
    FACTOR: tl.constexpr = SCALE * LOG2_E

    here = tl.cast(index, tl.int64)
    q = tl.load(query + here * query_stride + head * HEAD_DIM + dims, mask=inner, other=0.0).to(tl.float32)
    table = slots + tl.cast(seq_id, tl.int64) * slots_stride
    if bias is not None:
        bias += head * (2 * max_distance + 1) + max_distance

    top = tl.full([], LEAST_SCORE, dtype=tl.float32)
    total = tl.zeros([], dtype=tl.float32)
    result = tl.zeros([BLOCK_D], dtype=tl.float32)
    if part == 0:
        k = tl.load(key + here * key_stride + head * HEAD_DIM + dims, mask=inner, other=0.0)
        v = tl.load(value + here * value_stride + head * HEAD_DIM + dims, mask=inner, other=0.0)
        own = tl.cast(tl.load(table + position), tl.int64) * (HEADS * HEAD_DIM) + head * HEAD_DIM
        tl.store(key_cache + own + dims, k, mask=inner)
        tl.store(value_cache + own + dims, v, mask=inner)
        top = tl.sum(q * k.to(tl.float32), 0) * FACTOR
        if bias is not None:
            top += tl.load(bias) * LOG2_E
        total += 1.0
        result = v.to(tl.float32)

    share = tl.cdiv(tl.cdiv(position, SPLITS), BLOCK_N) * BLOCK_N
    start = part * share
    columns = tl.arange(0, BLOCK_N)
    for first in range(start, tl.minimum(start + share, position), BLOCK_N):
        keys = first + columns
        live = keys < position
        slot = tl.cast(tl.load(table + keys, mask=live, other=0), tl.int64)
        at = slot[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + dims[None, :]
        # Slots of other sequences may hold NaN, and zero times NaN is NaN: they are not read.
        mask = live[:, None] & inner[None, :]
        k = tl.load(key_cache + at, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(value_cache + at, mask=mask, other=0.0).to(tl.float32)
        scores = tl.sum(k * q[None, :], 1) * FACTOR
        if bias is not None:
            distance = tl.maximum(keys - position, -max_distance)
            scores += tl.load(bias + distance, mask=live, other=0.0) * LOG2_E
        scores = tl.where(live, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 0))
        weights = tl.exp2(scores - new_top)
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 0)
        result = result * shrink + tl.sum(weights[:, None] * v, 0)
        top = new_top

    if SPLITS == 1:
        out = result / total
        at = output + here * (HEADS * HEAD_DIM) + head * HEAD_DIM + dims
        tl.store(at, out.to(output.dtype.element_ty), mask=inner)
    else:
        spot = (here * HEADS + head) * SPLITS + part
        tl.store(output + spot * HEAD_DIM + dims, result, mask=inner)
        tl.store(part_tops + spot, top)
        tl.store(part_totals + spot, total)


@triton.jit
def decode_cross_kernel(
    query,
    key_cache,
    value_cache,
    slots,
    seq_ids,
    lengths,
    output,
    part_tops,
    part_totals,
    count,
    query_stride,
    slots_stride,
    SCALE: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Program 1 selects the head, 2 the part, 0 the sequence, together with others of the same source.

    Beams of a request are adjacent and read the same slots. The program of the first one within ``BLOCK_M``
    sequences computes all of them, and those of the others exit early: a source is read once, not once a
        beam.
    """
    index, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    inside = tl.arange(0, BLOCK_M)
    tile = index // BLOCK_M * BLOCK_M
    members = tile + inside
    seq_id = tl.load(seq_ids + index)
    table = slots + tl.cast(seq_id, tl.int64) * slots_stride
    source = tl.load(table)
    all_ids = tl.load(seq_ids + members, mask=members < count, other=0)
    sources = tl.load(slots + tl.cast(all_ids, tl.int64) * slots_stride)
    mine = (sources == source) & (members < count)
    earlier = tl.sum(tl.where(mine & (members < index), 1, 0), 0)
    if earlier == 0:
        length = tl.load(lengths + seq_id)
        dims = tl.arange(0, BLOCK_D)
        inner = dims < HEAD_DIM
        FACTOR: tl.constexpr = SCALE * LOG2_E
        far = tl.cast(members, tl.int64)
        at = query + far[:, None] * query_stride + head * HEAD_DIM + dims[None, :]
        q = tl.load(at, mask=mine[:, None] & inner[None, :], other=0.0)

        top = tl.full([BLOCK_M], LEAST_SCORE, dtype=tl.float32)
        total = tl.zeros([BLOCK_M], dtype=tl.float32)
        result = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
        share = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_N) * BLOCK_N
        start = part * share
        columns = tl.arange(0, BLOCK_N)
        for first in range(start, tl.minimum(start + share, length), BLOCK_N):
            keys = first + columns
            live = keys < length
            slot = tl.cast(tl.load(table + keys, mask=live, other=0), tl.int64)
            base = slot * (HEADS * HEAD_DIM) + head * HEAD_DIM
            k_at = key_cache + base[None, :] + dims[:, None]
            v_at = value_cache + base[:, None] + dims[None, :]
            k = tl.load(k_at, mask=live[None, :] & inner[:, None], other=0.0)
            v = tl.load(v_at, mask=live[:, None] & inner[None, :], other=0.0)
            scores = tl.dot(q, k, input_precision="ieee") * FACTOR
            scores = tl.where(live[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(weights, 1)
            result = result * shrink[:, None]
            result = tl.dot(weights.to(v.dtype), v, result, input_precision="ieee")
            top = new_top

        mask = mine[:, None] & inner[None, :]
        if SPLITS == 1:
            # The output for an empty source is zero.
            out = result / tl.where(total > 0, total, 1.0)[:, None]
            at = output + far[:, None] * (HEADS * HEAD_DIM) + head * HEAD_DIM + dims[None, :]
            tl.store(at, out.to(output.dtype.element_ty), mask=mask)
        else:
            spot = (far * HEADS + head) * SPLITS + part
            tl.store(output + spot[:, None] * HEAD_DIM + dims[None, :], result, mask=mask)
            tl.store(part_tops + spot, top, mask=mine)
            tl.store(part_totals + spot, total, mask=mine)


@triton.jit
def combine_parts_kernel(
    parts,
    part_tops,
    part_totals,
    output,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Combines the parts of sequence (program 0) and head (program 1), weighted by their sums.

    ``SPLITS`` is a power of two. The output is zero if no part has seen a key.
    """
    index, head = tl.program_id(0), tl.program_id(1)
    spot = (tl.cast(index, tl.int64) * HEADS + head) * SPLITS + tl.arange(0, SPLITS)
    dims = tl.arange(0, BLOCK_D)
    inner = dims < HEAD_DIM
    tops, totals = tl.load(part_tops + spot), tl.load(part_totals + spot)
    weights = tl.exp2(tops - tl.max(tops, 0))
    total = tl.sum(weights * totals, 0)
    values = tl.load(parts + spot[:, None] * HEAD_DIM + dims[None, :], mask=inner[None, :], other=0.0)
    out = tl.sum(weights[:, None] * values, 0) / tl.where(total > 0, total, 1.0)
    at = output + tl.cast(index, tl.int64) * (HEADS * HEAD_DIM) + head * HEAD_DIM + dims
    tl.store(at, out.to(output.dtype.element_ty), mask=inner)
