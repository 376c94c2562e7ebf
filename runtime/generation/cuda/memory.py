"""Device memory of a captured stepper, and the size of its KV cache."""

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
from precast.runtime.generation.cuda.program import Bound
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.kv_cache import BLOCK_SIZE, NumBlocks
from precast.runtime.generation.request import Request, Reservation
from precast.runtime.generation.steps import LoadedGraph, longest_span

Examples = Sequence[tuple[ActiveBatch, int]]


def captured_stepper(
    device: Device,
    graphs: Mapping[GraphName, LoadedGraph],
    limits: GenerateLimits,
    self_kv: KVCacheShape,
    cross_kv: KVCacheShape,
    num_blocks: NumBlocks,
    graph_buckets: Mapping[GraphName, Buckets],
    *,
    examples: Examples = (),
    upto: int | None = None,
) -> CapturedStepper:
    """Return a stepper with a KV cache of ``num_blocks``, and one spare block of either kind.

    Args:
        device: The device, opened by this thread; the thread that prepares the stepper opens it again.
        graphs: Graphs by name, loaded on the device.
        limits: Limits of the artifact.
        self_kv: Shape of a self-attention slot.
        cross_kv: Shape of a cross-attention slot.
        num_blocks: Size of the KV cache.
        graph_buckets: Buckets of ``encode_source`` and ``decode``.
        examples: Batches whose graphs ``prepare`` captures, and their steps.
        upto: ``prepare`` captures ``encode_source`` for buckets of up to this many tokens; all by default.

    Raises:
        torch.OutOfMemoryError: The memory does not suffice.
    """
    state = DeviceState(limits, device)
    self_caches = device_kv_cache("self", self_kv, num_blocks.self_kv + 1, device)
    cross_caches = device_kv_cache("cross", cross_kv, num_blocks.cross_kv + 1, device)
    tensors = {**state.tensors, **self_caches, **cross_caches}
    bound = Bound(graphs, limits, tensors, _counting(longest_span(graphs) + 2, device))
    buckets = graph_buckets[GraphName.ENCODE_SOURCE]
    encode_source = EncodeSourceReplay(
        graphs[GraphName.ENCODE_SOURCE], buckets, limits, cross_caches, device, upto or buckets.top
    )
    return CapturedStepper(device, bound, state, encode_source, graph_buckets[GraphName.DECODE], examples)


def device_kv_cache(kind: str, shape: KVCacheShape, blocks: int, device: Device) -> dict[str, Tensor]:
    """As ``kv_cache_tensors``, in one uninitialized allocation on the device."""
    layout = Layout.of(shape.buffers(kind, kind), {kind: blocks * BLOCK_SIZE})
    return layout.tensors(device.memory(layout.nbytes))


def _counting(end: int, device: Device) -> tuple[Tensor, Tensor]:
    """Return ``0 .. end - 1`` and ``1 .. end``, int32; a slice from 1 on would not be aligned."""
    host = device.host_memory(2 * end * 4)
    host.numpy().view(np.int32).reshape(2, end)[:] = np.arange(end) + np.array([[0], [1]])
    counting = [device.memory(end * 4) for _ in range(2)]
    stream = device.stream()
    for block, part in zip(counting, host.view(2, -1), strict=True):
        device.copy(block, part, stream)
    device.synchronize()
    return counting[0].view(torch.int32), counting[1].view(torch.int32)


def example_batches(request: Request, vocab_size: int, buckets: Buckets, steps: int) -> Examples:
    """Return batches of requests like this one, the largest first, one for each batch descriptor."""
    wide, seen = request.num_seqs, set()
    examples: list[tuple[ActiveBatch, int]] = []
    for count in range(buckets.top // wide, 0, -1):
        shape = (buckets.bucket_for(count * wide), buckets.bucket_for(count))
        if shape not in seen:
            seen.add(shape)
            seq_ids = np.arange(count * wide).reshape(count, wide).tolist()
            active = tuple(replace(request, reservation=Reservation(tuple(some))) for some in seq_ids)
            examples.append((ActiveBatch(active, vocab_size, buckets.top), steps))
    return examples


@dataclass(frozen=True)
class Room:
    """Bytes of device memory: total, free, and those that steps will allocate."""

    total: int
    free: int
    workspace: int

    def for_kv_cache(self, utilization: float) -> int:
        """Return the bytes left for the KV cache.

        Args:
            utilization: Share of the total memory that this and all other processes may use.

        Raises:
            OptionError: None are left.
        """
        taken = self.total - self.free
        left = int(utilization * self.total) - taken - self.workspace
        if left <= 0:
            raise OptionError(
                f"gpu_memory_utilization {utilization} of {self.total} bytes leaves nothing for the KV "
                f"cache: {taken} are in use, weights included, and steps need {self.workspace}; raise it, "
                f"or compile with a smaller max_num_seqs"
            )
        return left


def measured_room(device: Device, try_out: Callable[[NumBlocks], CapturedStepper]) -> Room:
    """Return the device memory, measured with a stepper that has the smallest KV cache.

    Args:
        device: The device, with the weights loaded.
        try_out: Returns a stepper whose examples are the largest batches: preparing it allocates what
            intermediate results and captured graphs need.
    """
    free, total = device.memory_bytes()
    stepper = try_out(NumBlocks(1, 1))
    try:
        stepper.prepare()
        taken = free - device.memory_bytes()[0]
    finally:
        stepper.close()
    return Room(total, free, taken)
