"""From an artifact on disk to an engine."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from precast.artifacts.errors import ManifestError, WeightsError
from precast.artifacts.manifest import EmbedInfo, GraphInfo, Manifest
from precast.artifacts.reader import open_artifact
from precast.artifacts.weights import read_weights
from precast.graphs.encode import encode_output, encode_signature
from precast.graphs.program import Program, ProgramRunner
from precast.runtime.encoder import Encoder
from precast.runtime.errors import OptionError
from precast.runtime.replay.direct import DirectReplay, Graph
from precast.runtime.replay.inductor import InductorGraph
from precast.runtime.tokenization import TextTokenizer
from precast.runtime.worker import Worker

BATCH_TOKENS = 2048
"""Tokens of a batch on a CPU: enough to keep the matrix units busy, few enough for the caches."""


def load(
    path: str | Path,
    *,
    num_threads: int | None = None,
    batch_tokens: int | None = None,
    max_waiting: int = 65_536,
    max_characters: int = 1_000_000,
) -> Encoder:
    """Check an artifact, load it and start its engine.

    Args:
        path: the artifact's directory.
        num_threads: of the graph's kernels; torch's own number where left out.
        batch_tokens: tokens of a packed batch, at most the artifact's ``max_tokens``.
        max_waiting: requests that may wait; ``submit`` refuses more, lists wait for room.
        max_characters: characters of one text; longer ones are refused before they are tokenized.

    Raises:
        ArtifactError: the artifact is damaged or was built for another machine; its subclasses say how.
        GraphError: a graph cannot be loaded.
        OptionError: an option is out of range.
    """
    folder = Path(path)
    return start_engine(
        folder,
        open_artifact(folder),
        num_threads=num_threads,
        batch_tokens=batch_tokens,
        max_waiting=max_waiting,
        max_characters=max_characters,
    )


def start_engine(
    folder: Path,
    manifest: Manifest,
    *,
    num_threads: int | None = None,
    batch_tokens: int | None = None,
    max_waiting: int = 65_536,
    max_characters: int = 1_000_000,
) -> Encoder:
    """The engine of an artifact whose files were checked. The compiler's parity check starts here."""
    options = {"num_threads": num_threads, "batch_tokens": batch_tokens, "max_waiting": max_waiting,
               "max_characters": max_characters}  # fmt: skip
    for name, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise OptionError(f"{name} must be a positive number, found {value!r}")
    limits, graph = manifest.limits, _encode_graph(manifest)
    weights = read_weights(folder / manifest.weights) if manifest.weights else {}
    tokenizer = TextTokenizer(
        _tokenizer_json(folder, manifest),
        manifest.tokenization,
        vocab_size=manifest.model.vocab_size,
        max_length=limits.max_length,
        max_characters=max_characters,
    )
    worker = Worker(
        DirectReplay(graph.signature, _open_graph(folder, manifest, graph, weights)),
        encode_output(manifest.model.task, int(graph.signature.outputs[0].shape[-1])),
        limits,
        batch_tokens=min(batch_tokens or BATCH_TOKENS, limits.max_tokens),
        max_waiting=max_waiting,
        num_threads=num_threads or torch.get_num_threads(),
    )
    tokenizer.warm()
    return Encoder(manifest, tokenizer, worker)


def _encode_graph(manifest: Manifest) -> GraphInfo:
    """The ``encode`` graph, if it takes and gives what this runtime packs and reads."""
    graph = manifest.graphs.get("encode")
    if graph is None:
        raise ManifestError(f"expected a graph named encode, found {sorted(manifest.graphs)}")
    signature, answer = graph.signature, manifest.answer
    names = {buffer.name for buffer in signature.inputs}
    expected = encode_signature(
        manifest.limits,
        encode_output(manifest.model.task, int(signature.outputs[0].shape[-1])),
        token_types="token_type_ids" in names,
        prompt_lengths=isinstance(answer, EmbedInfo) and not answer.include_prompt,
    )
    if signature != expected:
        raise ManifestError(
            "the signature of graph encode is not one that this runtime fills; compile the artifact again"
        )
    return graph


def _open_graph(folder: Path, manifest: Manifest, graph: GraphInfo, weights: dict[str, Tensor]) -> Graph:
    missing = sorted(set(graph.constants) - set(weights))
    if missing:
        raise WeightsError(f"the weights file lacks {missing[:5]}; copy or compile the artifact again")
    bound = {name: weights[name] for name in graph.constants}
    path = folder / graph.file
    if manifest.build.backend == "inductor":
        return InductorGraph(path, graph.signature, None if graph.weights == "prepacked" else bound)
    return ProgramRunner(Program.from_json(path.read_text("utf-8")), bound)


def _tokenizer_json(folder: Path, manifest: Manifest) -> str | None:
    name = manifest.tokenization.file
    return None if name is None else (folder / name).read_text("utf-8")
