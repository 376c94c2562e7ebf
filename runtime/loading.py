"""From an artifact on disk to an engine."""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as shortened

import numpy as np

from precast.artifacts.errors import ManifestError, TokenizerFileError
from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, GraphInfo, HiddenInfo, Manifest
from precast.artifacts.reader import open_artifact
from precast.graphs.encode import TOKENS, EncodeOutput, encode_output, encode_signature
from precast.runtime.encoder import Encoder
from precast.runtime.options import DEFAULTS, EngineOptions
from precast.runtime.replay.opening import open_replay
from precast.runtime.tokenization import TextTokenizer, Tokens
from precast.runtime.worker import Worker

_ANSWERS = {
    "embed": EmbedInfo,
    "classify": ClassifyInfo,
    "rerank": ClassifyInfo,
    "token-classify": ClassifyInfo,
    "hidden": HiddenInfo,
}


def load(
    path: str | Path,
    *,
    num_threads: int | None = DEFAULTS.num_threads,
    batch_tokens: int | None = DEFAULTS.batch_tokens,
    max_waiting: int = DEFAULTS.max_waiting,
    max_characters: int = DEFAULTS.max_characters,
    device: str | None = DEFAULTS.device,
    capture: int | None = DEFAULTS.capture,
) -> Encoder:
    """Check an artifact, load it and start its engine.

    Args:
        path: the artifact's directory.
        num_threads: of the graph's kernels; torch's own number where left out. Without meaning on CUDA.
        batch_tokens: tokens of a packed batch, at most the artifact's ``max_tokens``. Where left out 1024 on
            a CPU, on CUDA the largest bucket; batches above that are run without a captured graph.
        max_waiting: requests that may wait; ``submit`` refuses more, lists wait for room.
        max_characters: characters of one text; longer ones are refused before they are tokenized.
        device: for an artifact built for CUDA, ``"cuda"`` or ``"cuda:1"``; device 0 where left out. For one
            built for a CPU nothing but ``"cpu"``.
        capture: on CUDA, graphs are captured at once for buckets of up to so many tokens, for larger ones
            when a batch first meets them; all at once where left out. Without meaning on a CPU.

    Raises:
        ArtifactError: the artifact is damaged or was built for another machine; its subclasses say how.
        ProgramError, GraphError: a graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: the CUDA device failed, or its memory does not suffice.
        OptionError: an option is out of range, or the artifact was built for another device.
    """
    options = EngineOptions(num_threads, batch_tokens, max_waiting, max_characters, device, capture)
    folder = Path(path)
    return start_engine(folder, open_artifact(folder, options.device_index()), options)


def start_engine(folder: Path, manifest: Manifest, options: EngineOptions = DEFAULTS) -> Encoder:
    """The engine of an artifact whose files were checked. The compiler's parity check starts here."""
    _check_encode_graph(manifest)
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
        open_replay(folder, manifest, options),
        _output_of(manifest),
        limits,
        batch_tokens=options.batch_tokens_for(manifest),
        max_waiting=options.max_waiting,
        probe=Tokens(np.array([0, manifest.model.vocab_size - 1][-limits.max_length :], np.int32), None),
    )
    return Encoder(manifest, tokenizer, worker)


def _output_of(manifest: Manifest) -> EncodeOutput:
    """The graph's output, by what the manifest says of the answers."""
    task, answer = manifest.model.task, manifest.answer
    if not isinstance(answer, _ANSWERS[task]):
        raise ManifestError(
            f"the manifest describes answers of kind {answer.kind}, which the task {task} does not give; "
            f"compile the artifact again"
        )
    return encode_output(task, len(answer.labels) if isinstance(answer, ClassifyInfo) else answer.size)


def _check_encode_graph(manifest: Manifest) -> None:
    """Whether the ``encode`` graph takes and gives what this runtime packs and reads."""
    graph = manifest.graphs.get("encode")
    if graph is None:
        raise ManifestError(f"expected a graph named encode, found {shortened(sorted(manifest.graphs))}")
    signature, answer = graph.signature, manifest.answer
    names = {buffer.name for buffer in signature.inputs}
    expected = encode_signature(
        manifest.limits,
        _output_of(manifest),
        device=manifest.build.device,
        token_types="token_type_ids" in names,
        prompt_lengths=isinstance(answer, EmbedInfo) and not answer.include_prompt,
    )
    for part in ("graph", "axes", "inputs", "outputs"):
        if getattr(signature, part) != getattr(expected, part):
            raise ManifestError(
                f"the {part} of graph encode are {getattr(signature, part)}, this runtime fills "
                f"{getattr(expected, part)}; compile the artifact again"
            )
    _check_ladder(manifest, graph)
    limits = [variant.max_tokens for variant in graph.variants]
    if limits != sorted(set(limits)) or limits[-1] != manifest.limits.max_tokens:
        raise ManifestError(
            f"the variants of graph encode hold {limits} tokens, expected ascending numbers up to "
            f"{manifest.limits.max_tokens}; compile the artifact again"
        )


def _check_ladder(manifest: Manifest, graph: GraphInfo) -> None:
    """On a CPU the ladder ends where the limits do; on CUDA larger batches are called directly."""
    ladder, limit = graph.ladder, manifest.limits.max_tokens
    fits = ladder.top <= limit if manifest.build.device == "cuda" else ladder.top == limit
    if ladder.axis != TOKENS or not fits:
        raise ManifestError(
            f"the ladder of graph encode ends at {ladder.top} {ladder.axis}, its limits at {limit} {TOKENS}; "
            f"compile the artifact again"
        )


def _tokenizer_json(folder: Path, manifest: Manifest) -> str | None:
    name = manifest.tokenization.file
    try:
        return None if name is None else (folder / name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{name} is no text: {error}; compile the artifact again") from error
