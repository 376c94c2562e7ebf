"""Opens the tokenizers, the stepper and the core of an encoder-decoder artifact."""

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
class OpenedGraphs:
    """A stepper over loaded graphs, and the block allocators of its KV caches."""

    stepper: Stepper
    self_cache: BlockAllocator
    cross_cache: BlockAllocator


def open_tokenizers(
    folder: Path, manifest: GenerateManifest, options: LoadOptions
) -> tuple[TextTokenizer, Detokenizer | None]:
    """Return the tokenizer of sources, and the detokenizer of targets if the artifact has a tokenizer.

    Raises:
        TokenizerFileError: A file cannot be read.
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
    """Return the core of a generation engine, with its thread running.

    Raises:
        ManifestError: A graph has other inputs or outputs than this runtime uses.
        OptionError: The KV cache would not hold one request.
        GraphError, ProgramError, WeightsError: A graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: The device failed, or its memory does not suffice.
    """
    limits = manifest.limits
    check_generation_graphs(manifest)
    example = None if manifest.build.device == "cpu" else default_request(builder)
    opened = open_stepper(folder, manifest, options, example)
    scheduler = Scheduler(
        limits.max_num_seqs,
        opened.self_cache,
        opened.cross_cache,
        max_waiting=options.max_waiting,
        source_batch_tokens=options.batch_tokens_for(manifest),
        source_batch=limits.max_batch,
        max_batch_delay_steps=options.delay_steps(),
    )
    loop = DecodeLoop(
        opened.stepper, opened.self_cache, opened.cross_cache, detokenizer, manifest.output.vocab_size
    )
    return GenerationCore(
        loop,
        scheduler,
        steps_per_sync=options.steps_per_sync_on(manifest.build.device),
        threads=thread_pool_for(options.num_threads, options.cores),
    )


def open_stepper(
    folder: Path, manifest: GenerateManifest, options: LoadOptions, example: Request | None = None
) -> OpenedGraphs:
    """Return a stepper over all graphs of an artifact; the thread that will use it prepares it.

    Args:
        folder: Directory of the artifact.
        manifest: Manifest of the artifact.
        options: Options of the engine.
        example: On CUDA, graphs for batches of requests like this one are captured while loading; none by
            default.

    Raises:
        OptionError, GraphError, ProgramError, WeightsError, DeviceFailedError: As ``open_core``.
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
    """Return a request with default parameters; None if the model requires some."""
    try:
        return builder.build([0], {})
    except (InputError, OptionError):
        return None


def on_cpu(
    graphs: Mapping[GraphName, LoadedGraph], manifest: GenerateManifest, options: LoadOptions
) -> OpenedGraphs:
    """Return the stepper for a CPU.

    Raises:
        OptionError: The KV cache would not hold one request.
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
    return OpenedGraphs(stepper, self_cache, cross_cache)


def on_cuda(
    device: Device,
    graphs: Mapping[GraphName, LoadedGraph],
    manifest: GenerateManifest,
    options: LoadOptions,
    example: Request | None,
) -> OpenedGraphs:
    """Return the stepper for a CUDA device; the thread that will use it prepares it.

    Args:
        device: The device, with the weights on it.
        graphs: Graphs by name, loaded on the device.
        manifest: Manifest of the artifact.
        options: Options of the engine.
        example: Graphs for batches of requests like this one are captured by ``prepare``; None for none.

    Raises:
        OptionError: The KV cache would not hold one request.
        DeviceFailedError: The device failed, or its memory does not suffice.
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
        largest = {name: Buckets(buckets.axis, (buckets.top,)) for name, buckets in graph_buckets.items()}
        with guard.calls("its memory was measured"):
            device.open()
            room = measured_room(device, lambda sizes: make(sizes, examples[:1], largest))
        left = room.for_kv_cache(options.memory_share())
    sizes = num_kv_blocks(
        limits, info.self_kv, info.cross_kv, options.kv_cache_bytes, options.cross_kv_fraction, left
    )
    self_cache, cross_cache = _allocators(sizes)
    with guard.calls("memory was allocated"):
        device.open()
        return OpenedGraphs(make(sizes, examples, graph_buckets), self_cache, cross_cache)


def _allocators(sizes: NumBlocks) -> tuple[BlockAllocator, BlockAllocator]:
    """Return allocators of both KV caches, which have one spare block each."""
    return BlockAllocator(sizes.self_kv + 1, BLOCK_SIZE), BlockAllocator(sizes.cross_kv + 1, BLOCK_SIZE)
