"""From a checked encoder-decoder artifact to its engine."""

from __future__ import annotations

from pathlib import Path

from precast.artifacts.manifest import GenerateInfo, Manifest
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.backends.graph_loader import open_graphs
from precast.runtime.cpu.thread_pool import thread_pool_for
from precast.runtime.cuda.torch_device import CudaDevice
from precast.runtime.errors import InputError, OptionError
from precast.runtime.generation.decode_loop import Decoding
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.options import GenerationOptions
from precast.runtime.generation.preprocessing import Preparation
from precast.runtime.generation.request import GenerateRequest
from precast.runtime.generation.scheduler import Scheduler
from precast.runtime.generation.setup import Placed, on_cpu, on_cuda
from precast.runtime.generation.steps import LoadedGraph
from precast.runtime.generation.worker import GenerationWorker
from precast.runtime.io.detokenization import Detokenizer
from precast.runtime.io.languages import Languages
from precast.runtime.io.pieces import parse_pieces
from precast.runtime.io.tokenization import TextTokenizer
from precast.runtime.load import text_of, tokenizer_json
from precast.runtime.options import EngineOptions


def open_tokenizers(
    folder: Path, manifest: Manifest, options: EngineOptions
) -> tuple[TextTokenizer, Detokenizer | None]:
    """What makes tokens of sources, and text of targets if the artifact has a tokenizer.

    Raises:
        TokenizerFileError: a file cannot be read.
    """
    assert isinstance(manifest.limits, GenerateLimits)
    info, serialized = manifest.tokenization, tokenizer_json(folder, manifest)
    decoding, pieces = info.decoding, None
    if decoding is not None and decoding.pieces_file is not None and decoding.unknown_id is not None:
        pieces = parse_pieces(text_of(folder, decoding.pieces_file), decoding.unknown_id)
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


def start_seq2seq(
    folder: Path, manifest: Manifest, options: EngineOptions, generation: GenerationOptions
) -> Seq2Seq:
    """The engine of an artifact whose files and graphs were checked.

    Raises:
        OptionError: the kv_cache would not hold one request, or another device was asked for.
        GraphError, ProgramError, WeightsError: a graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: the device failed, or its memory does not suffice.
    """
    info, limits = manifest.output, manifest.limits
    assert isinstance(info, GenerateInfo) and isinstance(limits, GenerateLimits)
    device = options.device_for(manifest)
    tokenizer, detokenizer = open_tokenizers(folder, manifest, options)
    preparation = Preparation(manifest, tokenizer, detokenizer)
    request = None if device == "cpu" else default_request(preparation)
    placed = place_graphs(folder, manifest, options, generation, request)
    scheduler = Scheduler(
        limits.max_num_seqs,
        placed.own,
        placed.cross,
        max_waiting=options.max_waiting,
        source_batch_tokens=min(
            limits.max_tokens, max(generation.source_batch_tokens, limits.max_source_length)
        ),
        source_batch=limits.max_batch,
        max_batch_delay_steps=generation.max_batch_delay_steps,
    )
    worker = GenerationWorker(
        Decoding(placed.stepper, placed.own, placed.cross, detokenizer, info.vocab_size),
        scheduler,
        steps_per_sync=generation.steps_per_sync_on(manifest.build.device),
        threads=thread_pool_for(options.num_threads, options.cores),
    )
    return Seq2Seq(manifest, preparation, worker)


def place_graphs(
    folder: Path,
    manifest: Manifest,
    options: EngineOptions,
    generation: GenerationOptions,
    request: GenerateRequest | None = None,
) -> Placed:
    """All graphs over state and kv_cache, to be prepared by the thread that will use them.

    Args:
        folder: the artifact.
        manifest: its manifest.
        options: of every engine.
        generation: of one that generates.
        request: on CUDA, like those whose steps are captured at once; none are where left out.

    Raises:
        OptionError, GraphError, ProgramError, WeightsError, DeviceFailedError: as ``start_seq2seq``.
    """
    info, limits = manifest.output, manifest.limits
    assert isinstance(info, GenerateInfo) and isinstance(limits, GenerateLimits)
    device = options.device_for(manifest)
    graphs = {
        name: LoadedGraph(manifest.graphs[name].signature, graph)
        for name, graph in open_graphs(folder, manifest, device).items()
    }
    if device == "cpu":
        return on_cpu(graphs, info, limits, generation)
    return on_cuda(CudaDevice(options.device_index()), graphs, manifest, generation, options, request)


def default_request(preparation: Preparation) -> GenerateRequest | None:
    """What a caller asks for who passes no parameters; None where the model wants to be told something."""
    try:
        return preparation.one([0], {})
    except (InputError, OptionError):
        return None
