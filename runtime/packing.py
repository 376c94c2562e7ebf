"""Cutting waiting requests into packed batches, and writing a batch into static buffers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precast.graphs.encode import LENGTH, SEQUENCES, TOKENS
from precast.runtime.replay.buffers import StaticBuffers
from precast.runtime.replay.interface import Replay
from precast.runtime.tokenization import Tokens


def cut(lengths: Sequence[int], max_tokens: int, max_batch: int) -> list[list[int]]:
    """Places of ``lengths`` in batches: shortest first, each within both budgets.

    Inputs of like length share a batch, since a CPU's attention pads to the longest of them. An input
    longer than ``max_tokens`` has a batch to itself.
    """
    batches: list[list[int]] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or tokens + lengths[place] > max_tokens or len(batches[-1]) == max_batch:
            batches.append([])
            tokens = 0
        batches[-1].append(place)
        tokens += lengths[place]
    return batches


def fill(replay: Replay, batch: Sequence[Tokens]) -> dict[str, int]:
    """Write ``batch`` into the buffers of ``replay`` and return the sizes to run it at.

    What lies between the batch and those sizes becomes spare tokens (id 0, read by nobody) and spare
    sequences of length zero.
    """
    lengths = np.fromiter(map(len, batch), dtype=np.int32, count=len(batch))
    tokens = int(lengths.sum())
    sizes = replay.sizes({TOKENS: tokens, SEQUENCES: len(batch), LENGTH: int(lengths.max())})
    arrays = replay.buffers.arrays
    np.concatenate([item.ids for item in batch], out=arrays["input_ids"][:tokens])
    arrays["input_ids"][tokens : sizes[TOKENS]] = 0
    ends = arrays["cu_seqlens"]
    ends[0] = 0
    np.cumsum(lengths, out=ends[1 : len(batch) + 1])
    ends[len(batch) + 1 : sizes[SEQUENCES] + 1] = tokens
    arrays["key_positions"][: sizes[LENGTH]] = np.arange(sizes[LENGTH], dtype=np.int32)
    _fill_optional(replay.buffers, batch, tokens, sizes)
    return sizes


def _fill_optional(
    buffers: StaticBuffers, batch: Sequence[Tokens], tokens: int, sizes: dict[str, int]
) -> None:
    types = buffers.arrays.get("token_type_ids")
    if types is not None:
        at = 0
        for item in batch:
            types[at : at + len(item)] = 0 if item.types is None else item.types
            at += len(item)
        types[tokens : sizes[TOKENS]] = 0
    prompts = buffers.arrays.get("prompt_lengths")
    if prompts is not None:
        prompts[: len(batch)] = [item.prompt_length for item in batch]
        prompts[len(batch) : sizes[SEQUENCES]] = 0
