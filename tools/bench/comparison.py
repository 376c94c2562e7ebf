"""The artifacts that ``precast bench`` compares: opened, and checked to belong to one checkpoint and task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from precast.artifacts.manifest import EmbedInfo, Manifest
from precast.artifacts.reader import open_artifact
from precast.compiler.errors import CheckpointError
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.graphs.encode import EncodeLimits
from precast.graphs.errors import PrecastError
from precast.graphs.seq2seq import GenerateLimits
from precast.tools.bench.peers.contender import Subject


class BenchError(PrecastError):
    """The artifacts, peers or options cannot be compared."""


@dataclass(frozen=True)
class Compared:
    """An artifact with its name in tables."""

    name: str
    path: Path
    manifest: Manifest


def open_artifacts(paths: Sequence[Path], model: str | None) -> list[Compared]:
    """Open artifacts and name them by precision, and by directory if several have the same precision.

    Args:
        paths: directories of at least one artifact.
        model: the checkpoint of all artifacts; None to use the name in their manifests.

    Raises:
        ArtifactError: an artifact is damaged or was built for another machine.
        BenchError: the artifacts differ in model, task or pooling, or were not built for a CPU.
    """
    manifests = [open_artifact(path, 0) for path in paths]
    first = manifests[0]
    for path, manifest in zip(paths, manifests, strict=True):
        if manifest.build.device != "cpu":
            raise BenchError(
                f"expected artifacts for the CPU, {path} was built for {manifest.build.device}; compile it "
                f"with --device cpu"
            )
        if _outputs(manifest, model) != _outputs(first, model):
            raise BenchError(
                f"{path} has model, task, vocabulary and pooling {_outputs(manifest, model)}, {paths[0]} has "
                f"{_outputs(first, model)}; compare artifacts of one checkpoint and task"
            )
    precisions = Counter(manifest.build.precision for manifest in manifests)
    names = [
        f"precast {build.precision}" + (f" ({path.name})" if precisions[build.precision] > 1 else "")
        for path, build in zip(paths, (manifest.build for manifest in manifests), strict=True)
    ]
    if len(set(names)) < len(names):
        raise BenchError(f"two artifacts have the same name among {names}; rename a directory")
    return [Compared(*one) for one in zip(names, paths, manifests, strict=True)]


def describe(compared: Sequence[Compared], model: str | None, threads: int, folder: Path) -> Subject:
    """Return the model that every contender runs.

    Args:
        compared: at least one artifact.
        model: the checkpoint; by default the name in the manifest.
        threads: threads of each contender.
        folder: directory for converted models of peers.

    Raises:
        BenchError: the checkpoint is not available, or the artifact has no tokenizer.
    """
    first = compared[0]
    manifest, name = first.manifest, model or first.manifest.model.name
    try:
        checkpoint = open_checkpoint(name)
    except CheckpointError as error:
        raise BenchError(f"peers need the checkpoint: {error}; pass its location with --model") from error
    tokenization = manifest.tokenization
    if tokenization.file is None and manifest.output.kind != "generate":
        raise BenchError(
            f"{first.path} has no tokenizer, and the benchmark measures texts; compile a checkpoint with one"
        )
    output = manifest.output
    pad = checkpoint.config.pad_token_id
    return Subject(
        model=str(checkpoint.root),
        task=manifest.model.task,
        pooling=output.pooling if isinstance(output, EmbedInfo) else (),
        normalize=isinstance(output, EmbedInfo) and output.normalize,
        max_length=min(_longest(one.manifest) for one in compared),
        tokenizer=first.path / tokenization.file if tokenization.file else None,
        truncation_side=tokenization.truncation_side,
        pad_id=pad if isinstance(pad, int) and pad >= 0 else 0,
        threads=threads,
        folder=folder,
    )


def shown_name(model: str) -> str:
    """Return a hub id unchanged, or the last component of a directory: results must not reveal its path."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _outputs(manifest: Manifest, model: str | None) -> tuple[object, ...]:
    pooling = manifest.output.pooling if isinstance(manifest.output, EmbedInfo) else ()
    info = manifest.model
    return model or info.name, info.task, info.vocab_size, pooling


def _longest(manifest: Manifest) -> int:
    limits = manifest.limits
    if isinstance(limits, GenerateLimits):
        return limits.max_source_length
    assert isinstance(limits, EncodeLimits)
    return limits.max_length
