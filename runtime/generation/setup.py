"""Where state and pools lie, and what steps over them: on a CPU, or on a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.buckets import Ladder
from precast.runtime.generation.cuda.memory import (
    Examples,
    captured_stepper,
    example_batches,
    measured_room,
)
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.options import GenerationOptions
from precast.runtime.generation.block_allocator import PagePool
from precast.runtime.generation.kv_cache import PAGE_SIZE, PoolSizes, pool_sizes, pool_tensors
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.state import RowState
from precast.runtime.generation.stepper import DirectStepper, Stepper
from precast.runtime.generation.steps import LoadedGraph, Steps
from precast.runtime.options import EngineOptions
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.guard import DeviceGuard


@dataclass(frozen=True)
class Placed:
    """A stepper, and the pages of its pools."""

    stepper: Stepper
    own: PagePool
    cross: PagePool


def on_cpu(
    graphs: Mapping[str, LoadedGraph],
    info: GenerateInfo,
    limits: GenerateLimits,
    generation: GenerationOptions,
) -> Placed:
    """Raises: OptionError: the pools would not hold one request."""
    sizes = pool_sizes(
        limits, info.own_pool, info.cross_pool, generation.kv_cache_bytes, generation.cross_fraction
    )
    own, cross = _pages(sizes)
    pools = {
        **pool_tensors("self", info.own_pool, sizes.own + 1),
        **pool_tensors("cross", info.cross_pool, sizes.cross + 1),
    }
    state = RowState(limits)
    return Placed(DirectStepper(Steps(graphs, state, pools), state, own, cross, pools), own, cross)


def on_cuda(
    device: Device,
    graphs: Mapping[str, LoadedGraph],
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
        OptionError: the pools would not hold one request.
        DeviceFailedError: the device failed, or its memory does not suffice.
    """
    info, limits = manifest.answer, manifest.limits
    assert isinstance(info, GenerateInfo) and isinstance(limits, GenerateLimits)
    ladders = {name: manifest.graphs[name].ladder for name in ("admit", "decode")}
    steps = generation.steps_per_look_on("cuda")
    examples: Examples = ()
    if request is not None:
        examples = example_batches(request, info.vocab_size, ladders["decode"], steps)

    def make(sizes: PoolSizes, some: Examples, ladders: Mapping[str, Ladder]) -> CapturedStepper:
        return captured_stepper(
            device, graphs, limits, info.own_pool, info.cross_pool, sizes, ladders, examples=some,
            upto=options.capture,
        )  # fmt: skip

    guard, left = DeviceGuard(), None
    if generation.kv_cache_bytes is None:
        largest = {name: Ladder(one.axis, (one.top,)) for name, one in ladders.items()}
        with guard.calls("its memory was measured"):
            device.open()
            room = measured_room(device, lambda sizes: make(sizes, examples[:1], largest))
        left = room.for_pools(generation.gpu_memory_utilization)
    sizes = pool_sizes(
        limits, info.own_pool, info.cross_pool, generation.kv_cache_bytes, generation.cross_fraction, left
    )
    own, cross = _pages(sizes)
    with guard.calls("memory was taken"):
        device.open()
        return Placed(make(sizes, examples, ladders), own, cross)


def _pages(sizes: PoolSizes) -> tuple[PagePool, PagePool]:
    """With the page that is never dealt out."""
    return PagePool(sizes.own + 1, PAGE_SIZE), PagePool(sizes.cross + 1, PAGE_SIZE)
