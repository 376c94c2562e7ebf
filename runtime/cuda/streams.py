"""The pipeline of a batch: upload to the device, computation, and download.

Three streams overlap the transfers of one batch with the computation of another. Every arrow is an event,
without which a step could start before its data has arrived, or overwrite data that is still read.

    upload     host inputs → landing
                              ↓ uploaded
    compute                landing → static inputs → graph → slot's outputs
                                                              ↓ computed
    download                                               slot's outputs → host outputs → ``result``

The memory of a slot is reused by the next launch in that slot, after ``result`` has waited for all three
steps of this one. Static inputs and the memory that graphs write are shared by all launches; only the compute
stream, which runs in order, accesses them.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from precast.runtime.cuda.device import Device
from precast.runtime.cuda.layout import Layout


class Slot:
    """Memory and events of one launch in flight."""

    def __init__(self, device: Device, input_bytes: int, output_bytes: int) -> None:
        self.host_inputs = device.host_memory(input_bytes)
        self.landing = device.memory(input_bytes)
        self.outputs = device.memory(output_bytes)
        self.host_outputs = device.host_memory(output_bytes)
        self.uploaded = device.event()
        self.computed = device.event()
        self.downloaded = device.event()
        self.in_flight = False


class Pipeline:
    """Streams, the static inputs that graphs are bound to, and slots that are reused one after another.

    Args:
        device: The device, opened by this thread.
        depth: Number of slots.
        input_bytes: Input bytes of the largest launch.
        output_bytes: Output bytes of the largest launch.
    """

    def __init__(self, device: Device, depth: int, input_bytes: int, output_bytes: int) -> None:
        self._device = device
        self._upload, self.compute, self._download = device.stream(), device.stream(), device.stream()
        self.static_inputs = device.memory(input_bytes)
        self._slots = [Slot(device, input_bytes, output_bytes) for _ in range(depth)]
        self._launches = 0

    def next_slot(self) -> Slot:
        """Return the slot of the next launch."""
        slot = self._slots[self._launches % len(self._slots)]
        if slot.in_flight:
            raise RuntimeError(f"{len(self._slots)} launches are in flight; take a result first")
        return slot

    def free(self) -> bool:
        """Return whether the slot of the next launch is free."""
        return not self._slots[self._launches % len(self._slots)].in_flight

    def launch(self, slot: Slot, inputs: Layout, run: Callable[[], list[Tensor]], outputs: Layout) -> None:
        """Put upload, computation and download on their streams.

        Args:
            slot: The slot, with its host inputs filled.
            inputs: Layout of the inputs.
            run: Puts the graph on the compute stream and returns its outputs, whose memory that stream may
                reuse afterwards.
            outputs: Layout of the outputs on the host, with the number of rows to copy.
        """
        slot.in_flight = True
        self._launches += 1
        copy, uploaded, downloaded = self._device.copy, slice(inputs.nbytes), slice(outputs.nbytes)
        copy(slot.landing[uploaded], slot.host_inputs[uploaded], self._upload)
        slot.uploaded.record(self._upload)
        slot.uploaded.wait(self.compute)
        copy(self.static_inputs[uploaded], slot.landing[uploaded], self.compute)
        for field, output in zip(outputs.fields, run(), strict=True):
            if field.nbytes:
                copy(field.view(slot.outputs), output[: field.shape[0]], self.compute)
        slot.computed.record(self.compute)
        slot.computed.wait(self._download)
        if outputs.nbytes:
            copy(slot.host_outputs[downloaded], slot.outputs[downloaded], self._download)
        slot.downloaded.record(self._download)

    def wait(self, slot: Slot) -> None:
        """Wait until the launch of a slot has finished."""
        slot.downloaded.synchronize()
        slot.in_flight = False
