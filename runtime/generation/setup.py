"""Where state and kv_cache lie, and what steps over them: on a CPU, or on a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.guard import DeviceGuard
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.cuda.memory import (
    Examples,
    captured_stepper,
    example_batches,
    measured_room,
)
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.kv_cache import BLOCK_SIZE, NumBlocks, kv_cache_tensors, num_kv_blocks
from precast.runtime.generation.options import GenerationOptions
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import DirectStepper, Stepper
from precast.runtime.generation.steps import LoadedGraph, Steps
from precast.runtime.options import EngineOptions


@dataclass(frozen=True)
class Placed:
    """A stepper, and the blocks of its kv_cache."""

    stepper: Stepper
    own: BlockAllocator
    cross: BlockAllocator


def on_cpu(
    graphs: Mapping[GraphName, LoadedGraph],
    info: GenerateInfo,
    limits: GenerateLimits,
    generation: GenerationOptions,
) -> Placed:
    """Raises: OptionError: the kv_cache would not hold one request."""
    sizes = num_kv_blocks(
        limits, info.self_kv, info.cross_kv, generation.kv_cache_bytes, generation.cross_kv_fraction
    )
    own, cross = _blocks(sizes)
    kv_cache = {
        **kv_cache_tensors("self", info.self_kv, sizes.self_kv + 1),
        **kv_cache_tensors("cross", info.cross_kv, sizes.cross_kv + 1),
    }
    state = DecoderState(limits)
    return Placed(DirectStepper(Steps(graphs, state, kv_cache), state, own, cross, kv_cache), own, cross)


def on_cuda(
    device: Device,
    graphs: Mapping[GraphName, LoadedGraph],
    manifest: Manifest,
    generation: GenerationOptions,
    options: EngineOptions,
    request: GenerateRequest | None,
) -> Placed:
    """The stepper is prepared by the thread that will use it.

    Args:
        device: with the weights on it.
        graphs: loaded there.
        manifest: of the artifact.
        generation: options that say how much memory there is.
        options: options that say how much is captured at once.
        request: like those whose steps are captured at once; none are where left out.

    Raises:
        OptionError: the kv_cache would not hold one request.
        DeviceFailedError: the device failed, or its memory does not suffice.
    """
    info, limits = manifest.output, manifest.limits
    assert isinstance(info, GenerateInfo) and isinstance(limits, GenerateLimits)
    graph_buckets = {
        name: manifest.graphs[name].buckets for name in (GraphName.ENCODE_SOURCE, GraphName.DECODE)
    }
    steps = generation.steps_per_sync_on("cuda")
    examples: Examples = ()
    if request is not None:
        examples = example_batches(request, info.vocab_size, graph_buckets[GraphName.DECODE], steps)

    def make(sizes: NumBlocks, some: Examples, graph_buckets: Mapping[GraphName, Buckets]) -> CapturedStepper:
        return captured_stepper(
            device, graphs, limits, info.self_kv, info.cross_kv, sizes, graph_buckets, examples=some,
            upto=options.capture,
        )  # fmt: skip

    guard, left = DeviceGuard(), None
    if generation.kv_cache_bytes is None:
        largest = {name: Buckets(one.axis, (one.top,)) for name, one in graph_buckets.items()}
        with guard.calls("its memory was measured"):
            device.open()
            room = measured_room(device, lambda sizes: make(sizes, examples[:1], largest))
        left = room.for_kv_cache(generation.gpu_memory_utilization)
    sizes = num_kv_blocks(
        limits, info.self_kv, info.cross_kv, generation.kv_cache_bytes, generation.cross_kv_fraction, left
    )
    own, cross = _blocks(sizes)
    with guard.calls("memory was taken"):
        device.open()
        return Placed(make(sizes, examples, graph_buckets), own, cross)


def _blocks(sizes: NumBlocks) -> tuple[BlockAllocator, BlockAllocator]:
    """With the block that is never dealt out."""
    return BlockAllocator(sizes.self_kv + 1, BLOCK_SIZE), BlockAllocator(sizes.cross_kv + 1, BLOCK_SIZE)
