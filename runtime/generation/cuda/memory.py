"""Memory on the device for everything that a captured stepper is bound to, and how large its kv_cache may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits, KVCacheShape
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.layout import Layout
from precast.runtime.errors import OptionError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.cuda.device_state import DeviceState
from precast.runtime.generation.cuda.encode_source import EncodeSourceReplay
from precast.runtime.generation.cuda.program import Bound, largest_span
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.kv_cache import BLOCK_SIZE, NumBlocks
from precast.runtime.generation.request import Request, Reservation
from precast.runtime.generation.steps import LoadedGraph

Examples = Sequence[tuple[ActiveBatch, int]]


def captured_stepper(
    device: Device,
    graphs: Mapping[GraphName, LoadedGraph],
    limits: GenerateLimits,
    own: KVCacheShape,
    cross: KVCacheShape,
    sizes: NumBlocks,
    graph_buckets: Mapping[GraphName, Buckets],
    *,
    examples: Examples = (),
    upto: int | None = None,
) -> CapturedStepper:
    """A stepper with kv_cache of so many blocks, and the one that is never dealt out.

    Args:
        device: opened by this thread; the one that prepares the stepper opens it again.
        graphs: by name, for the device.
        limits: of the artifact.
        own: what a place of the self kv_cache holds.
        cross: what a place of the cross kv_cache holds.
        sizes: of the kv_cache.
        graph_buckets: of ``encode_source`` and ``decode``.
        examples: batches whose graphs are captured when it is prepared, and their steps.
        upto: ``encode_source`` is captured for buckets of up to so many tokens at once; for all where left out.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice.
    """
    state = DeviceState(limits, device)
    self_caches = device_kv_cache("self", own, sizes.own + 1, device)
    cross_caches = device_kv_cache("cross", cross, sizes.cross + 1, device)
    tensors = {**state.tensors, **self_caches, **cross_caches}
    bound = Bound(graphs, limits, tensors, _counting(largest_span(graphs) + 2, device))
    buckets = graph_buckets[GraphName.ENCODE_SOURCE]
    encode_source = EncodeSourceReplay(
        graphs[GraphName.ENCODE_SOURCE], buckets, limits, cross_caches, device, upto or buckets.top
    )
    return CapturedStepper(device, bound, state, encode_source, graph_buckets[GraphName.DECODE], examples)


def device_kv_cache(kind: str, shape: KVCacheShape, blocks: int, device: Device) -> dict[str, Tensor]:
    """As ``kv_cache_tensors``, in one block on the device and as it was found there."""
    slots = f"{kind}_places"
    layout = Layout.of(shape.buffers(kind, slots), {slots: blocks * BLOCK_SIZE})
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


def example_batches(request: Request, vocab_size: int, buckets: Buckets, steps: int) -> Examples:
    """Batches of requests like this one, the largest first, one for each recipe that they can meet."""
    wide, met = request.num_seqs, set()
    found: list[tuple[ActiveBatch, int]] = []
    for count in range(buckets.top // wide, 0, -1):
        shape = (buckets.bucket_for(count * wide), buckets.bucket_for(count))
        if shape not in met:
            met.add(shape)
            rows = np.arange(count * wide).reshape(count, wide).tolist()
            active = tuple(replace(request, reservation=Reservation(tuple(some))) for some in rows)
            found.append((ActiveBatch(active, vocab_size, buckets.top), steps))
    return found


@dataclass(frozen=True)
class Room:
    """Bytes of a device's memory: all, those not taken, and what steps will take of them."""

    total: int
    free: int
    workspace: int

    def for_kv_cache(self, utilization: float) -> int:
        """What is left for kv_cache.

        Args:
            utilization: the part of the memory that may be taken, by this process and all others together.

        Raises:
            OptionError: nothing is.
        """
        taken = self.total - self.free
        left = int(utilization * self.total) - taken - self.workspace
        if left <= 0:
            raise OptionError(
                f"gpu_memory_utilization {utilization} of {self.total} bytes leaves nothing for kv_cache: "
                f"{taken} are taken, weights included, and steps need {self.workspace}; raise it, or compile "
                f"with fewer max_num_seqs"
            )
        return left


def measured_room(device: Device, try_out: Callable[[NumBlocks], CapturedStepper]) -> Room:
    """The room beside kv_cache, found by trying.

    Args:
        device: with the weights on it.
        try_out: gives a stepper whose examples are the largest batches: what setting it up takes is what
            intermediate results and captured graphs will take.
    """
    free, total = device.memory_bytes()
    stepper = try_out(NumBlocks(1, 1))
    try:
        stepper.prepare()
        taken = free - device.memory_bytes()[0]
    finally:
        stepper.close()
    return Room(total, free, taken)
