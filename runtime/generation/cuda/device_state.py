"""The state of the decoder's rows on the device, and the host's view of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from precast.graphs.sampling import state_buffers
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Buffer
from precast.runtime.cuda.device import Device, Stream
from precast.runtime.cuda.layout import Layout
from precast.runtime.generation.cuda.staging import Staging
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import OUTPUT_BUFFERS

FLAGS = ("positions", "finished", "hypothesis_lengths", "hypothesis_scores")
"""What every look at the rows reads."""
_WORD = 4


class DeviceState:
    """One block of memory that begins with ``FLAGS`` and ``OUTPUT_BUFFERS``, so that one copy takes either.

    Args:
        limits: of the artifact.
        device: opened by this thread.
    """

    def __init__(self, limits: GenerateLimits, device: Device) -> None:
        self._device = device
        buffers = state_buffers(limits)
        first = [*FLAGS, *OUTPUT_BUFFERS]
        ordered: list[Buffer] = [buffers[name] for name in first]
        ordered += [buffer for name, buffer in buffers.items() if name not in first]
        self.flags = Layout.of([buffers[name] for name in FLAGS], {})
        self.answers = Layout.of([buffers[name] for name in first], {})
        self.layout = Layout.of(ordered, {})
        self.block = device.memory(self.layout.nbytes)
        self.tensors: Mapping[str, Tensor] = self.layout.tensors(self.block)
        mirror = device.host_memory(self.layout.nbytes)
        mirror.numpy()[:] = 0
        self._mirror = mirror
        self.host = DecoderState(limits, self.layout.tensors(mirror))
        self._words = _words_of_rows(self.layout, limits.max_num_seqs)

    def clear(self, stream: Stream) -> None:
        """Overwrite everything by the host's view."""
        self._device.copy(self.block, self._mirror, stream)

    def free(self) -> None:
        """Let go of the device's memory; the host's view stays."""
        self.tensors, self.block = {}, self.block[:0].clone()

    def upload(self, rows: Sequence[int], staging: Staging, stream: Stream) -> None:
        """Overwrite these rows by the host's view, and no others: those go on."""
        first, step = self._words
        at = (first[None, :] + np.asarray(rows, np.int64)[:, None] * step[None, :]).reshape(-1)
        values = self._mirror.numpy().view(np.int32)[at]
        index, source = staging.upload([at, values], stream)
        target = self.block.view(torch.int32)
        self._device.scatter(target, index.view(torch.int64), source.view(torch.int32), stream)


def _words_of_rows(layout: Layout, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every 32-bit word of row 0: its place in the block, and how far from it that of row 1 lies."""
    first, step = [], []
    for field in layout.fields:
        width = field.nbytes // rows // _WORD
        first.append(field.offset // _WORD + np.arange(width, dtype=np.int64))
        step.append(np.full(width, width, np.int64))
    return np.concatenate(first), np.concatenate(step)
