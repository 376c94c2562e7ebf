"""Cuts queued requests into packed batches, and writes a batch into the buffers of its launch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from precast.graphs.encode import LENGTH, SEQUENCES, TOKENS
from precast.runtime.encoder.batch_planner import plan_batches
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import HostBuffers, Replay

SEARCHED = 1 << 25
"""Largest product of a window's inputs and a batch's tokens for which batches are planned. Planning a larger
window takes tens of milliseconds, in which nothing is computed."""


def cut(
    lengths: Sequence[int], max_tokens: int, max_batch: int, seconds: np.ndarray | None = None
) -> list[list[int]]:
    """Return batches as lists of indices into ``lengths``, shortest inputs first.

    Inputs of similar length share a batch, because plain torch's attention pads to the longest of them. An
    input longer than ``max_tokens`` gets a batch of its own.

    Args:
        lengths: Tokens of each input.
        max_tokens: Most tokens of a batch.
        max_batch: Most inputs of a batch.
        seconds: Seconds of a batch of 0, 1, … ``max_tokens`` tokens; the total of all batches is minimized.
            By default each batch is filled as far as possible.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if seconds is None or len(lengths) * max_tokens > SEARCHED:
        return _filled(order, lengths, max_tokens, max_batch)
    fitting = bisect_right(order, max_tokens, key=lengths.__getitem__)
    ends = accumulate(plan_batches([lengths[index] for index in order[:fitting]], max_batch, seconds))
    batches = [order[start:end] for start, end in pairwise((0, *ends))]
    return batches + [[index] for index in order[fitting:]]


def _filled(order: Sequence[int], lengths: Sequence[int], max_tokens: int, max_batch: int) -> list[list[int]]:
    batches: list[list[int]] = []
    tokens = 0
    for index in order:
        if not batches or tokens + lengths[index] > max_tokens or len(batches[-1]) == max_batch:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches


def fill(replay: Replay, batch: Sequence[Tokens]) -> HostBuffers:
    """Write ``batch`` into the buffers of the next launch of ``replay``, and return them."""
    lengths = np.fromiter(map(len, batch), dtype=np.int32, count=len(batch))
    needed = {TOKENS: int(lengths.sum()), SEQUENCES: len(batch), LENGTH: int(lengths.max())}
    buffers = replay.buffers_for(needed)
    write_batch(buffers, batch, lengths, needed[TOKENS])
    return buffers


def fill_example(buffers: HostBuffers, max_length: int) -> None:
    """Write a warmup batch that fills ``buffers`` as far as inputs of ``max_length`` tokens can.

    Every id is 0; the outputs are discarded.
    """
    tokens, sequences = buffers.sizes[TOKENS], buffers.sizes[SEQUENCES]
    lengths = [min(max_length, tokens - start) for start in range(0, tokens, max_length)][:sequences]
    batch = [Tokens(np.zeros(length, np.int32), None) for length in lengths]
    write_batch(buffers, batch, np.array(lengths, np.int32), sum(lengths))


def write_batch(buffers: HostBuffers, batch: Sequence[Tokens], lengths: np.ndarray, tokens: int) -> None:
    """Write a batch of inputs with the given ``lengths``, which sum to ``tokens``.

    The rest of the buffers is filled with padding tokens (id 0) and sequences of length zero.
    """
    arrays = buffers.arrays
    ids, ends = arrays["input_ids"], arrays["cu_seqlens"]
    np.concatenate([item.ids for item in batch], out=ids[:tokens])
    ids[tokens:] = 0
    ends[0] = 0
    np.cumsum(lengths, out=ends[1 : len(batch) + 1])
    ends[len(batch) + 1 :] = tokens
    positions = arrays.get("key_positions")
    if positions is not None:
        positions[:] = np.arange(len(positions), dtype=np.int32)
    types = arrays.get("token_type_ids")
    if types is not None:
        _write_types(types, batch, tokens)
    prompts = arrays.get("prompt_lengths")
    if prompts is not None:
        prompts[: len(batch)] = [item.prompt_length for item in batch]
        prompts[len(batch) :] = 0


def _write_types(types: np.ndarray, batch: Sequence[Tokens], tokens: int) -> None:
    at = 0
    for item in batch:
        types[at : at + len(item)] = 0 if item.types is None else item.types
        at += len(item)
    types[tokens:] = 0
