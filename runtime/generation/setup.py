"""From a checked encoder-decoder artifact to what its engine is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from precast.artifacts.manifest import GenerateManifest
from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_graphs
from precast.runtime.cpu.thread_pool import thread_pool_for
from precast.runtime.cuda.device import Device
from precast.runtime.cuda.guard import DeviceGuard
from precast.runtime.cuda.torch_device import CudaDevice
from precast.runtime.errors import InputError, OptionError
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.cuda.memory import (
    Examples,
    captured_stepper,
    example_batches,
    measured_room,
)
from precast.runtime.generation.cuda.stepper import CapturedStepper
from precast.runtime.generation.decode_loop import DecodeLoop
from precast.runtime.generation.kv_cache import BLOCK_SIZE, NumBlocks, kv_cache_tensors, num_kv_blocks
from precast.runtime.generation.preprocessing import RequestBuilder
from precast.runtime.generation.request import Request
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.stepper import DirectStepper, Stepper
from precast.runtime.generation.steps import LoadedGraph, Steps
from precast.runtime.graph_checks import check_generation_graphs
from precast.runtime.io.detokenization import Detokenizer
from precast.runtime.io.languages import Languages
from precast.runtime.io.tokenization import TextTokenizer, read_text, tokenizer_json
from precast.runtime.io.tokens import parse_pieces
from precast.runtime.options import LoadOptions


@dataclass(frozen=True)
class PlacedGraphs:
    """A stepper over loaded graphs, and the blocks of its KV caches."""

    stepper: Stepper
    self_cache: BlockAllocator
    cross_cache: BlockAllocator


def open_tokenizers(
    folder: Path, manifest: GenerateManifest, options: LoadOptions
) -> tuple[TextTokenizer, Detokenizer | None]:
    """The tokenizer of sources, and the detokenizer of targets if the artifact has a tokenizer.

    Raises:
        TokenizerFileError: a file cannot be read.
    """
    info = manifest.tokenization
    serialized = tokenizer_json(folder, info)
    decoding, pieces = info.decoding, None
    if decoding is not None and decoding.pieces_file is not None and decoding.unknown_id is not None:
        pieces = parse_pieces(read_text(folder, decoding.pieces_file), decoding.unknown_id)
    tokenizer = TextTokenizer(
        serialized,
        info,
        vocab_size=manifest.model.vocab_size,
        max_length=manifest.limits.max_source_length,
        max_characters=options.max_characters,
        languages=None if info.languages is None else Languages(info.languages),
        pieces=pieces,
    )
    tokenizer.warm()
    if serialized is None or decoding is None:
        return tokenizer, None
    return tokenizer, Detokenizer(serialized, decoding, pieces)


def open_core(
    folder: Path,
    manifest: GenerateManifest,
    options: LoadOptions,
    builder: RequestBuilder,
    detokenizer: Detokenizer | None,
) -> GenerationCore:
    """The running core of a generation engine.

    Raises:
        ManifestError: a graph is not what this runtime fills and reads.
        OptionError: the KV cache would not hold one request.
        GraphError, ProgramError, WeightsError: a graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: the device failed, or its memory does not suffice.
    """
    limits = manifest.limits
    check_generation_graphs(manifest)
    example = None if manifest.build.device == "cpu" else default_request(builder)
    placed = place_graphs(folder, manifest, options, example)
    scheduler = Scheduler(
        limits.max_num_seqs,
        placed.self_cache,
        placed.cross_cache,
        max_waiting=options.max_waiting,
        source_batch_tokens=options.batch_tokens_for(manifest),
        source_batch=limits.max_batch,
        max_batch_delay_steps=options.delay_steps(),
    )
    loop = DecodeLoop(
        placed.stepper, placed.self_cache, placed.cross_cache, detokenizer, manifest.output.vocab_size
    )
    return GenerationCore(
        loop,
        scheduler,
        steps_per_sync=options.steps_per_sync_on(manifest.build.device),
        threads=thread_pool_for(options.num_threads, options.cores),
    )


def place_graphs(
    folder: Path, manifest: GenerateManifest, options: LoadOptions, example: Request | None = None
) -> PlacedGraphs:
    """All graphs over state and KV caches, to be prepared by the thread that will use them.

    Args:
        folder: the artifact.
        manifest: its manifest.
        options: of the engine.
        example: on CUDA, the steps of requests like this one are captured while loading; by default none.

    Raises:
        OptionError, GraphError, ProgramError, WeightsError, DeviceFailedError: as ``open_core``.
    """
    device = options.device_for(manifest)
    graphs = {
        name: LoadedGraph(manifest.graphs[name].signature, graph)
        for name, graph in open_graphs(folder, manifest, device).items()
    }
    if device == "cpu":
        return on_cpu(graphs, manifest, options)
    return on_cuda(CudaDevice(options.device_index()), graphs, manifest, options, example)


def default_request(builder: RequestBuilder) -> Request | None:
    """A request without parameters; None if the model cannot run without some."""
    try:
        return builder.one([0], {})
    except (InputError, OptionError):
        return None


def on_cpu(
    graphs: Mapping[GraphName, LoadedGraph], manifest: GenerateManifest, options: LoadOptions
) -> PlacedGraphs:
    """The stepper of a CPU.

    Raises:
        OptionError: the KV cache would not hold one request.
    """
    info, limits = manifest.output, manifest.limits
    sizes = num_kv_blocks(
        limits, info.self_kv, info.cross_kv, options.kv_cache_bytes, options.cross_kv_fraction
    )
    self_cache, cross_cache = _allocators(sizes)
    kv_cache = {
        **kv_cache_tensors("self", info.self_kv, sizes.self_kv + 1),
        **kv_cache_tensors("cross", info.cross_kv, sizes.cross_kv + 1),
    }
    state = DecoderState(limits)
    stepper = DirectStepper(Steps(graphs, state, kv_cache), state, self_cache, cross_cache, kv_cache)
    return PlacedGraphs(stepper, self_cache, cross_cache)


def on_cuda(
    device: Device,
    graphs: Mapping[GraphName, LoadedGraph],
    manifest: GenerateManifest,
    options: LoadOptions,
    example: Request | None,
) -> PlacedGraphs:
    """The stepper of a CUDA device, which is prepared by the thread that will use it.

    Args:
        device: with the weights on it.
        graphs: loaded on it.
        manifest: of the artifact.
        options: of the engine.
        example: the steps of requests like this one are captured while loading; None for none.

    Raises:
        OptionError: the KV cache would not hold one request.
        DeviceFailedError: the device failed, or its memory does not suffice.
    """
    info, limits = manifest.output, manifest.limits
    graph_buckets = {
        name: manifest.graphs[name].buckets for name in (GraphName.ENCODE_SOURCE, GraphName.DECODE)
    }
    steps = options.steps_per_sync_on("cuda")
    examples: Examples = ()
    if example is not None:
        examples = example_batches(example, info.vocab_size, graph_buckets[GraphName.DECODE], steps)

    def make(sizes: NumBlocks, some: Examples, graph_buckets: Mapping[GraphName, Buckets]) -> CapturedStepper:
        return captured_stepper(
            device, graphs, limits, info.self_kv, info.cross_kv, sizes, graph_buckets, examples=some,
            upto=options.cuda_graph_max_tokens,
        )  # fmt: skip

    guard, left = DeviceGuard(), None
    if options.kv_cache_bytes is None:
        largest = {name: Buckets(one.axis, (one.top,)) for name, one in graph_buckets.items()}
        with guard.calls("its memory was measured"):
            device.open()
            room = measured_room(device, lambda sizes: make(sizes, examples[:1], largest))
        left = room.for_kv_cache(options.memory_share())
    sizes = num_kv_blocks(
        limits, info.self_kv, info.cross_kv, options.kv_cache_bytes, options.cross_kv_fraction, left
    )
    self_cache, cross_cache = _allocators(sizes)
    with guard.calls("memory was taken"):
        device.open()
        return PlacedGraphs(make(sizes, examples, graph_buckets), self_cache, cross_cache)


def _allocators(sizes: NumBlocks) -> tuple[BlockAllocator, BlockAllocator]:
    """With the block that is never dealt out."""
    return BlockAllocator(sizes.self_kv + 1, BLOCK_SIZE), BlockAllocator(sizes.cross_kv + 1, BLOCK_SIZE)
