"""Opens the tokenizer and the core of an encoder artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from precast.artifacts.manifest import EmbedInfo, EncodeManifest
from precast.graphs.costs import Costs
from precast.graphs.graph_names import GraphName
from precast.runtime.backends.graph_loader import open_replay
from precast.runtime.encoder.batch_planner import cost_table
from precast.runtime.encoder.core import EncoderCore
from precast.runtime.graph_checks import check_encode_graph, output_of
from precast.runtime.io.tokenization import TextTokenizer, tokenizer_json
from precast.runtime.io.tokens import Tokens
from precast.runtime.options import LoadOptions


def open_tokenizer(folder: Path, manifest: EncodeManifest, options: LoadOptions) -> TextTokenizer:
    """Return the tokenizer of an encoder artifact.

    Raises:
        TokenizerFileError: The tokenizer cannot be read.
    """
    tokenizer = TextTokenizer(
        tokenizer_json(folder, manifest.tokenization),
        manifest.tokenization,
        vocab_size=manifest.model.vocab_size,
        max_length=manifest.limits.max_length,
        max_characters=options.max_characters,
        measure_prompts=isinstance(manifest.output, EmbedInfo) and not manifest.output.include_prompt,
    )
    tokenizer.warm()
    return tokenizer


def open_core(folder: Path, manifest: EncodeManifest, options: LoadOptions) -> EncoderCore:
    """Return the core of an encoder, with its thread running.

    Raises:
        ManifestError: The graph has other inputs or outputs than this runtime uses.
        GraphError, ProgramError, WeightsError: The graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: The device failed, or its memory does not suffice.
    """
    limits = manifest.limits
    check_encode_graph(manifest)
    batch_tokens = options.batch_tokens_for(manifest)
    return EncoderCore(
        open_replay(folder, manifest, options),
        output_of(manifest),
        limits,
        batch_tokens=batch_tokens,
        seconds=_seconds(manifest, batch_tokens),
        max_waiting=options.max_waiting,
        warmup=Tokens(np.array([0, manifest.model.vocab_size - 1][-limits.max_length :], np.int32), None),
    )


def _seconds(manifest: EncodeManifest, batch_tokens: int) -> np.ndarray | None:
    """Return the cost table for planning batches; None on CUDA, where batches fill a bucket."""
    graph = manifest.graphs[GraphName.ENCODE]
    if manifest.build.device == "cuda" or graph.costs is None:
        return None
    return cost_table(Costs(graph.buckets.sizes, graph.costs), batch_tokens)
