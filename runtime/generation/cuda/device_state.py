"""The decoder state on the device, and its mirror on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from precast.graphs.sampling import state_buffers
from precast.graphs.seq2seq import MAX_NUM_SEQS, GenerateLimits
from precast.graphs.signature import Buffer
from precast.runtime.cuda.device import Device, Stream
from precast.runtime.cuda.layout import Layout
from precast.runtime.generation.cuda.staging import Staging
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import OUTPUT_BUFFERS

FLAGS = ("positions", "finished", "hypothesis_lengths", "hypothesis_scores")
"""Buffers that every poll reads."""
_WORD = 4


class DeviceState:
    """One block of memory that begins with ``FLAGS``, then ``OUTPUT_BUFFERS``, so one copy takes either.

    Args:
        limits: Limits of the artifact.
        device: The device, opened by this thread.
    """

    def __init__(self, limits: GenerateLimits, device: Device) -> None:
        self._device = device
        buffers, sizes = state_buffers(), limits.state_sizes
        first = [*FLAGS, *OUTPUT_BUFFERS]
        ordered: list[Buffer] = [buffers[name] for name in first]
        ordered += [buffer for name, buffer in buffers.items() if name not in first]
        self.flags = Layout.of([buffers[name] for name in FLAGS], sizes)
        self.outputs = Layout.of([buffers[name] for name in first], sizes)
        self.layout = Layout.of(ordered, sizes)
        self.block = device.memory(self.layout.nbytes)
        self.tensors: Mapping[str, Tensor] = self.layout.tensors(self.block)
        mirror = device.host_memory(self.layout.nbytes)
        mirror.numpy()[:] = 0
        self._mirror = mirror
        self.host = DecoderState(limits, self.layout.tensors(mirror))
        self._words = _words_of_sequences(self.layout, sizes[MAX_NUM_SEQS])

    def clear(self, stream: Stream) -> None:
        """Overwrite the whole state with the mirror."""
        self._device.copy(self.block, self._mirror, stream)

    def free(self) -> None:
        """Free the device memory; the mirror stays."""
        self.tensors, self.block = {}, self.block[:0].clone()

    def upload(self, seq_ids: Sequence[int], staging: Staging, stream: Stream) -> None:
        """Overwrite some sequences with the mirror; the others keep running."""
        first, step = self._words
        at = (first[None, :] + np.asarray(seq_ids, np.int64)[:, None] * step[None, :]).reshape(-1)
        values = self._mirror.numpy().view(np.int32)[at]
        index, source = staging.upload([at, values], stream)
        target = self.block.view(torch.int32)
        self._device.scatter(target, index.view(torch.int64), source.view(torch.int32), stream)


def _words_of_sequences(layout: Layout, num_seqs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return index and stride of each 32-bit word of a sequence's state, counted in words of the block."""
    first, step = [], []
    for field in layout.fields:
        width = field.nbytes // num_seqs // _WORD
        first.append(field.offset // _WORD + np.arange(width, dtype=np.int64))
        step.append(np.full(width, width, np.int64))
    return np.concatenate(first), np.concatenate(step)
