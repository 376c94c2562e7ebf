"""Memory on the device for everything that a captured stepper is bound to, and how large its pools may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from precast.graphs.seq2seq import GenerateLimits, PoolShape
from precast.graphs.buckets import Ladder
from precast.runtime.errors import OptionError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.encode_source import CapturedAdmit
from precast.runtime.generation.cuda.device_state import DeviceState
from precast.runtime.generation.cuda.program import Bound, largest_span
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.kv_cache import PAGE_SIZE, PoolSizes
from precast.runtime.generation.request import Active, GenerateRequest
from precast.runtime.generation.steps import LoadedGraph
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.layout import Layout

Examples = Sequence[tuple[ActiveBatch, int]]


def captured_stepper(
    device: Device,
    graphs: Mapping[str, LoadedGraph],
    limits: GenerateLimits,
    own: PoolShape,
    cross: PoolShape,
    sizes: PoolSizes,
    ladders: Mapping[str, Ladder],
    *,
    examples: Examples = (),
    upto: int | None = None,
) -> CapturedStepper:
    """A stepper with pools of so many pages, and the one that is never dealt out.

    Args:
        device: opened by this thread; the one that prepares the stepper opens it again.
        graphs: by name, for the device.
        limits: of the artifact.
        own: what a place of the self pools holds.
        cross: what a place of the cross pools holds.
        sizes: of the pools.
        ladders: of ``admit`` and ``decode``.
        examples: batches whose graphs are captured when it is prepared, and their steps.
        upto: ``admit`` is captured for buckets of up to so many tokens at once; for all where left out.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice.
    """
    state = DeviceState(limits, device)
    self_pools = device_pools("self", own, sizes.own + 1, device)
    cross_pools = device_pools("cross", cross, sizes.cross + 1, device)
    tensors = {**state.tensors, **self_pools, **cross_pools}
    bound = Bound(graphs, limits, tensors, _counting(largest_span(graphs) + 2, device))
    ladder = ladders["admit"]
    admit = CapturedAdmit(graphs["admit"], ladder, limits, cross_pools, device, upto or ladder.top)
    return CapturedStepper(device, bound, state, admit, ladders["decode"], examples)


def device_pools(kind: str, shape: PoolShape, pages: int, device: Device) -> dict[str, Tensor]:
    """As ``pool_tensors``, in one block on the device and as it was found there."""
    places = f"{kind}_places"
    layout = Layout.of(shape.buffers(kind, places), {places: pages * PAGE_SIZE})
    return layout.tensors(device.memory(layout.nbytes))


def _counting(end: int, device: Device) -> tuple[Tensor, Tensor]:
    """``0 .. end - 1`` and ``1 .. end``, int32: the first one from 1 on would not be aligned."""
    host = device.host_memory(2 * end * 4)
    host.numpy().view(np.int32).reshape(2, end)[:] = np.arange(end) + np.array([[0], [1]])
    found = [device.memory(end * 4) for _ in range(2)]
    stream = device.stream()
    for block, part in zip(found, host.view(2, -1), strict=True):
        device.copy(block, part, stream)
    device.synchronize()
    return found[0].view(torch.int32), found[1].view(torch.int32)


def example_batches(request: GenerateRequest, vocab_size: int, ladder: Ladder, steps: int) -> Examples:
    """Batches of requests like this one, the largest first, one for each recipe that they can meet."""
    wide, met = request.plan.rows, set()
    found: list[tuple[ActiveBatch, int]] = []
    for count in range(ladder.top // wide, 0, -1):
        buckets = (ladder.bucket_for(count * wide), ladder.bucket_for(count))
        if buckets not in met:
            met.add(buckets)
            rows = np.arange(count * wide).reshape(count, wide).tolist()
            active = tuple(Active(request, tuple(some)) for some in rows)
            found.append((ActiveBatch(active, vocab_size, ladder.top), steps))
    return found


@dataclass(frozen=True)
class Room:
    """Bytes of a device's memory: all, those not taken, and what steps will take of them."""

    total: int
    free: int
    workspace: int

    def for_pools(self, utilization: float) -> int:
        """What is left for pools.

        Args:
            utilization: the part of the memory that may be taken, by this process and all others together.

        Raises:
            OptionError: nothing is.
        """
        taken = self.total - self.free
        left = int(utilization * self.total) - taken - self.workspace
        if left <= 0:
            raise OptionError(
                f"gpu_memory_utilization {utilization} of {self.total} bytes leaves nothing for pools: "
                f"{taken} are taken, weights included, and steps need {self.workspace}; raise it, or compile "
                f"with fewer max_rows"
            )
        return left


def measured_room(device: Device, try_out: Callable[[PoolSizes], CapturedStepper]) -> Room:
    """The room beside pools, found by trying.

    Args:
        device: with the weights on it.
        try_out: gives a stepper whose examples are the largest batches: what setting it up takes is what
            intermediate results and captured graphs will take.
    """
    free, total = device.memory_bytes()
    stepper = try_out(PoolSizes(1, 1))
    try:
        stepper.prepare()
        taken = free - device.memory_bytes()[0]
    finally:
        stepper.close()
    return Room(total, free, taken)
