"""From an artifact on disk to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from precast.artifacts.errors import TokenizerFileError
from precast.artifacts.manifest import EmbedInfo, GenerateInfo, Manifest
from precast.artifacts.reader import open_artifact
from precast.graphs.costs import Costs
from precast.graphs.encode import EncodeLimits
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.backends.graph_loader import open_replay
from precast.runtime.encoder.batch_planner import cost_table
from precast.runtime.encoder.engine import Encoder
from precast.runtime.encoder.worker import Worker
from precast.runtime.errors import OptionError
from precast.runtime.generation.options import GenerationOptions
from precast.runtime.graph_checks import (
    check_encode_graph,
    check_generation_graphs,
    check_output_info,
    output_of,
)
from precast.runtime.io.tokenization import TextTokenizer
from precast.runtime.io.tokens import Tokens
from precast.runtime.options import DEFAULTS, EngineOptions

Engine: TypeAlias = Any
"""``Encoder`` or ``Seq2Seq``: the artifact says which, so that a type checker cannot know."""


def load(
    path: str | Path,
    *,
    num_threads: int | None = DEFAULTS.num_threads,
    cores: Sequence[int] | None = DEFAULTS.cores,
    batch_tokens: int | None = DEFAULTS.batch_tokens,
    max_waiting: int = DEFAULTS.max_waiting,
    max_characters: int = DEFAULTS.max_characters,
    device: str | None = DEFAULTS.device,
    capture: int | None = DEFAULTS.capture,
    kv_cache_bytes: int | None = None,
    cross_kv_fraction: float | None = None,
    source_batch_tokens: int | None = None,
    max_batch_delay_steps: int | None = None,
    steps_per_sync: int | None = None,
    gpu_memory_utilization: float | None = None,
) -> Engine:
    """Check an artifact, load it and start its engine: an ``Encoder``, or a ``Seq2Seq`` where it generates.

    Args:
        path: the artifact's directory.
        num_threads: of the graph's kernels; one for each of ``cores``, or torch's own number, where left out.
            Without meaning on CUDA.
        cores: on Linux, that these threads run on; several engines in one process should not share any. The
            system chooses where left out. Without meaning on CUDA.
        batch_tokens: tokens of a packed batch, at most the artifact's ``max_tokens``. Where left out 2048 on
            a CPU, on CUDA the largest bucket; batches above that are run without a captured graph.
        max_waiting: requests that may wait; ``submit`` refuses more, lists wait for room.
        max_characters: characters of one text; longer ones are refused before they are tokenized.
        device: for an artifact built for CUDA, ``"cuda"`` or ``"cuda:1"``; device 0 where left out. For one
            built for a CPU nothing but ``"cpu"``.
        capture: on CUDA, graphs are captured at once for buckets of up to so many tokens, for larger ones
            when a batch first meets them; all at once where left out. Steps of a decoder are captured at once
            for requests without parameters, for others when they are first met. Without meaning on a CPU.
        kv_cache_bytes: where the artifact generates, as all that follow: memory of the self and cross pools
            together. Where left out, what all rows need at their longest, but at most a gigabyte, on CUDA at
            most what ``gpu_memory_utilization`` leaves.
        cross_kv_fraction: the part of it that sources get; as the longest request's where left out.
        source_batch_tokens: source tokens that are encoded together; 1024 where left out.
        max_batch_delay_steps: decode steps for which a request that could join is held back, so that more join with it;
            4 where left out.
        steps_per_sync: decode steps between two looks at what has ended, was cancelled or could join; where
            left out 2, on CUDA 4.
        gpu_memory_utilization: on CUDA, the part of the device's memory that may be taken, by this process
            and all others together; 0.9 where left out. Pools get what weights and steps leave of it.

    Raises:
        ArtifactError: the artifact is damaged or was built for another machine; its subclasses say how.
        ProgramError, GraphError: a graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: the CUDA device failed, or its memory does not suffice.
        OptionError: an option is out of range, or the artifact was built for another device.
    """
    chosen = None if cores is None else tuple(cores)
    options = EngineOptions(num_threads, batch_tokens, max_waiting, max_characters, device, capture, chosen)
    given = {
        "kv_cache_bytes": kv_cache_bytes, "cross_kv_fraction": cross_kv_fraction, "source_batch_tokens": source_batch_tokens,
        "max_batch_delay_steps": max_batch_delay_steps, "steps_per_sync": steps_per_sync,
        "gpu_memory_utilization": gpu_memory_utilization,
    }  # fmt: skip
    generation: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    folder = Path(path)
    manifest = open_artifact(folder, options.device_index())
    if generation and not isinstance(manifest.output, GenerateInfo):
        raise OptionError(
            f"{', '.join(generation)} need an artifact that generates, this one was compiled with --task "
            f"{manifest.model.task}"
        )
    return start_engine(folder, manifest, options, GenerationOptions(**generation))


def start_engine(
    folder: Path,
    manifest: Manifest,
    options: EngineOptions = DEFAULTS,
    generation: GenerationOptions | None = None,
) -> Engine:
    """The engine of an artifact whose files were checked. The compiler's parity check starts here.

    Args:
        folder: the artifact.
        manifest: its manifest.
        options: of every engine.
        generation: of one that generates; the defaults where left out.
    """
    check_output_info(manifest)
    if isinstance(manifest.limits, GenerateLimits):
        assert isinstance(manifest.output, GenerateInfo)  # a manifest has both or neither
        check_generation_graphs(manifest, manifest.output, manifest.limits)
        from precast.runtime.generation.loading import start_seq2seq

        return start_seq2seq(folder, manifest, options, generation or GenerationOptions())
    return _start_encoder(folder, manifest, manifest.limits, options)


def _start_encoder(folder: Path, manifest: Manifest, limits: EncodeLimits, options: EngineOptions) -> Encoder:
    check_encode_graph(manifest, limits)
    tokenizer = TextTokenizer(
        tokenizer_json(folder, manifest),
        manifest.tokenization,
        vocab_size=manifest.model.vocab_size,
        max_length=limits.max_length,
        max_characters=options.max_characters,
        measure_prompts=isinstance(manifest.output, EmbedInfo) and not manifest.output.include_prompt,
    )
    tokenizer.warm()
    batch_tokens = options.batch_tokens_for(manifest)
    worker = Worker(
        open_replay(folder, manifest, options),
        output_of(manifest),
        limits,
        batch_tokens=batch_tokens,
        seconds=_seconds(manifest, batch_tokens),
        max_waiting=options.max_waiting,
        warmup=Tokens(np.array([0, manifest.model.vocab_size - 1][-limits.max_length :], np.int32), None),
    )
    return Encoder(manifest, tokenizer, worker)


def _seconds(manifest: Manifest, batch_tokens: int) -> np.ndarray | None:
    """What batches cost on a CPU, which runs them at their own sizes; on CUDA buckets are filled."""
    graph = manifest.graphs[GraphName.ENCODE]
    if manifest.build.device == "cuda" or graph.costs is None:
        return None
    return cost_table(Costs(graph.buckets.sizes, graph.costs), batch_tokens)


def tokenizer_json(folder: Path, manifest: Manifest) -> str | None:
    """The content of the tokenizer file, None where the artifact has none.

    Raises:
        TokenizerFileError: it is no text.
    """
    name = manifest.tokenization.file
    return None if name is None else text_of(folder, name)


def text_of(folder: Path, name: str) -> str:
    """The content of a file of the tokenizer.

    Raises:
        TokenizerFileError: it is no text.
    """
    try:
        return (folder / name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{name} is no text: {error}; compile the artifact again") from error
