"""The way of a batch: from the host to the device, through a graph, and back.

Three streams, so that one batch travels while another is computed. Every arrow is an event; without one, a
step may start before its data is there, or overwrite what another still reads.

    upload     host inputs → landing
                              ↓ uploaded
    compute                landing → static inputs → graph → slot's outputs
                                                              ↓ computed
    download                                               slot's outputs → host outputs → ``result``

A slot's memory is written by the next launch of the same slot alone, and only after ``result`` waited for
the end of this one; by then all three steps are over. The static inputs, and whatever a graph writes to,
belong to all launches: they are touched on the compute stream alone, which does one thing after another.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from precast.runtime.cuda.device import Device
from precast.runtime.cuda.layout import Layout


class Slot:
    """The memory and the events of one launch in flight."""

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
        device: opened by this thread.
        depth: number of slots.
        input_bytes: of the largest launch.
        output_bytes: of the largest launch.
    """

    def __init__(self, device: Device, depth: int, input_bytes: int, output_bytes: int) -> None:
        self._device = device
        self._upload, self.compute, self._download = device.stream(), device.stream(), device.stream()
        self.static_inputs = device.memory(input_bytes)
        self._slots = [Slot(device, input_bytes, output_bytes) for _ in range(depth)]
        self._launches = 0

    def next_slot(self) -> Slot:
        """The slot of the next launch; the same until there was one."""
        slot = self._slots[self._launches % len(self._slots)]
        if slot.in_flight:
            raise RuntimeError(f"{len(self._slots)} launches are in flight; take a result first")
        return slot

    def free(self) -> bool:
        """Whether the slot of the next launch is."""
        return not self._slots[self._launches % len(self._slots)].in_flight

    def launch(self, slot: Slot, inputs: Layout, run: Callable[[], list[Tensor]], outputs: Layout) -> None:
        """Put all steps on their streams.

        Args:
            slot: its host inputs are filled.
            inputs: how they lie there.
            run: puts the graph on the compute stream and returns its outputs, which that stream may use
                again after what is put on it here.
            outputs: how many of their rows to copy back, and where to.
        """
        slot.in_flight = True
        self._launches += 1
        copy, given, taken = self._device.copy, slice(inputs.nbytes), slice(outputs.nbytes)
        copy(slot.landing[given], slot.host_inputs[given], self._upload)
        slot.uploaded.record(self._upload)
        slot.uploaded.wait(self.compute)
        copy(self.static_inputs[given], slot.landing[given], self.compute)
        for field, found in zip(outputs.fields, run(), strict=True):
            if field.nbytes:
                copy(field.view(slot.outputs), found[: field.shape[0]], self.compute)
        slot.computed.record(self.compute)
        slot.computed.wait(self._download)
        if outputs.nbytes:
            copy(slot.host_outputs[taken], slot.outputs[taken], self._download)
        slot.downloaded.record(self._download)

    def wait(self, slot: Slot) -> None:
        """Until the slot's launch is over."""
        slot.downloaded.synchronize()
        slot.in_flight = False
