"""Memory and events of one launch of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from precast.runtime.cuda.device import Device, Stream
from precast.runtime.cuda.layout import ALIGNMENT

_LEAST = 1 << 16


class Staging:
    """Page-locked memory that one copy takes to the device; it grows on demand.

    It is reused only after the launch that it was filled for.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._host = device.host_memory(_LEAST)
        self._landing = device.memory(_LEAST)

    def upload(self, arrays: Sequence[np.ndarray], stream: Stream) -> list[Tensor]:
        """Return the bytes of each array on the device, uint8, valid for later work on ``stream``."""
        starts, end = [], 0
        for array in arrays:
            starts.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        if end > self._host.shape[0]:
            # No copy uses this memory any more, but the device must not reuse it while work is in flight.
            self._device.synchronize()
            self._host, self._landing = self._device.host_memory(2 * end), self._device.memory(2 * end)
        host = self._host.numpy()
        for array, start in zip(arrays, starts, strict=True):
            host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._device.copy(self._landing[:end], self._host[:end], stream)
        return [
            self._landing[start : start + array.nbytes] for array, start in zip(arrays, starts, strict=True)
        ]


class StepSlot:
    """Memory and events that a launch owns until the next launch in the same slot."""

    def __init__(self, device: Device, output_bytes: int, flag_bytes: int) -> None:
        self.state = Staging(device)
        self.batch = Staging(device)
        self.outputs = device.memory(output_bytes)
        """Flags and output buffers of the state after the launch."""
        self.flags = device.host_memory(flag_bytes)
        """The flags, on the host."""
        self.computed = device.event()
        self.flagged = device.event()
        self.in_flight = False

    def wait(self) -> None:
        """Wait until the launch is over."""
        if self.in_flight:
            self.flagged.synchronize()
            self.in_flight = False
