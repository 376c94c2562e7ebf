"""From an artifact on disk to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

import numpy as np
import torch
from torch import Tensor

from precast.artifacts.errors import ManifestError, TokenizerFileError, WeightsError
from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, GraphInfo, HiddenInfo, Manifest
from precast.artifacts.reader import open_artifact
from precast.artifacts.weights import read_weights
from precast.graphs.encode import TOKENS, EncodeOutput, encode_output, encode_signature
from precast.graphs.errors import ProgramError
from precast.graphs.program import Program, ProgramRunner
from precast.runtime.encoder import Encoder
from precast.runtime.errors import OptionError
from precast.runtime.replay.direct import DirectReplay, Graph
from precast.runtime.replay.inductor import InductorGraph
from precast.runtime.replay.interface import Replay
from precast.runtime.tokenization import TextTokenizer, Tokens
from precast.runtime.worker import Worker

BATCH_TOKENS = 1024
"""Tokens of a batch on a CPU: enough to keep the matrix units busy, few enough for the caches."""
MAX_THREADS = 1024
"""The process ends where the system refuses to start a kernel's thread."""

_ANSWERS = {
    "embed": EmbedInfo,
    "classify": ClassifyInfo,
    "rerank": ClassifyInfo,
    "token-classify": ClassifyInfo,
    "hidden": HiddenInfo,
}


@dataclass(frozen=True)
class EngineOptions:
    """See ``load``.

    Raises:
        OptionError: an option is out of range.
    """

    num_threads: int | None = None
    batch_tokens: int | None = None
    max_waiting: int = 65_536
    max_characters: int = 1_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise OptionError(f"{name} must be a positive number, found {value!r}")
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise OptionError(f"num_threads must be at most {MAX_THREADS}, found {self.num_threads}")


DEFAULTS = EngineOptions()


def load(
    path: str | Path,
    *,
    num_threads: int | None = DEFAULTS.num_threads,
    batch_tokens: int | None = DEFAULTS.batch_tokens,
    max_waiting: int = DEFAULTS.max_waiting,
    max_characters: int = DEFAULTS.max_characters,
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
        ProgramError, GraphError: a graph cannot be loaded, or fails on its first batch.
        OptionError: an option is out of range.
    """
    options = EngineOptions(num_threads, batch_tokens, max_waiting, max_characters)
    folder = Path(path)
    return start_engine(folder, open_artifact(folder), options)


def start_engine(folder: Path, manifest: Manifest, options: EngineOptions = DEFAULTS) -> Encoder:
    """The engine of an artifact whose files were checked. The compiler's parity check starts here."""
    limits = manifest.limits
    tokenizer = TextTokenizer(
        _tokenizer_json(folder, manifest),
        manifest.tokenization,
        vocab_size=manifest.model.vocab_size,
        max_length=limits.max_length,
        max_characters=options.max_characters,
        measure_prompts=isinstance(manifest.answer, EmbedInfo) and not manifest.answer.include_prompt,
    )
    tokenizer.warm()
    worker = Worker(
        open_replay(folder, manifest),
        _output_of(manifest),
        limits,
        batch_tokens=min(options.batch_tokens or BATCH_TOKENS, limits.max_tokens),
        max_waiting=options.max_waiting,
        num_threads=options.num_threads or torch.get_num_threads(),
        probe=Tokens(np.array([0, manifest.model.vocab_size - 1][-limits.max_length :], np.int32), None),
    )
    return Encoder(manifest, tokenizer, worker)


def open_replay(folder: Path, manifest: Manifest) -> Replay:
    """The ``encode`` graph with its weights bound and its buffers allocated."""
    graph = _encode_graph(manifest)
    weights = read_weights(folder / manifest.weights) if manifest.weights else {}
    return DirectReplay(graph.signature, _open_graph(folder, manifest, graph, weights))


def _output_of(manifest: Manifest) -> EncodeOutput:
    """The graph's output, by what the manifest says of the answers."""
    task, answer = manifest.model.task, manifest.answer
    if not isinstance(answer, _ANSWERS[task]):
        raise ManifestError(
            f"the manifest describes answers of kind {answer.kind}, which the task {task} does not give; "
            f"compile the artifact again"
        )
    return encode_output(task, len(answer.labels) if isinstance(answer, ClassifyInfo) else answer.size)


def _encode_graph(manifest: Manifest) -> GraphInfo:
    """The ``encode`` graph, if it takes and gives what this runtime packs and reads."""
    graph = manifest.graphs.get("encode")
    if graph is None:
        raise ManifestError(f"expected a graph named encode, found {shortened(sorted(manifest.graphs))}")
    signature, answer = graph.signature, manifest.answer
    names = {buffer.name for buffer in signature.inputs}
    expected = encode_signature(
        manifest.limits,
        _output_of(manifest),
        token_types="token_type_ids" in names,
        prompt_lengths=isinstance(answer, EmbedInfo) and not answer.include_prompt,
    )
    for part in ("graph", "axes", "inputs", "outputs"):
        if getattr(signature, part) != getattr(expected, part):
            raise ManifestError(
                f"the {part} of graph encode are {getattr(signature, part)}, this runtime fills "
                f"{getattr(expected, part)}; compile the artifact again"
            )
    if graph.ladder.axis != TOKENS or graph.ladder.top != manifest.limits.max_tokens:
        raise ManifestError(
            f"the ladder of graph encode ends at {graph.ladder.top} {graph.ladder.axis}, its limits at "
            f"{manifest.limits.max_tokens} {TOKENS}; compile the artifact again"
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
    try:
        program = Program.from_json(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise ProgramError(f"{graph.file} is no text: {error}; compile the artifact again") from error
    taken, given = set(program.inputs), {buffer.name for buffer in graph.signature.inputs}
    if taken != given:
        raise ProgramError(
            f"{graph.file} takes {sorted(taken)[:9]}, its signature names {sorted(given)}; "
            f"compile the artifact again"
        )
    return ProgramRunner(program, bound)


def _tokenizer_json(folder: Path, manifest: Manifest) -> str | None:
    name = manifest.tokenization.file
    try:
        return None if name is None else (folder / name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{name} is no text: {error}; compile the artifact again") from error
