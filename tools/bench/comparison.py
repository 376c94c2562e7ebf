"""What ``precast bench`` compares: artifacts of one checkpoint, opened and held against each other."""

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
    """What was asked for cannot be compared."""


@dataclass(frozen=True)
class Compared:
    """An artifact and its name in tables."""

    name: str
    path: Path
    manifest: Manifest


def open_artifacts(paths: Sequence[Path], model: str | None) -> list[Compared]:
    """Check artifacts and name them by their precision, and by their folder where that is not enough.

    Args:
        paths: their folders, at least one.
        model: the checkpoint of all; None where they name it themselves.

    Raises:
        ArtifactError: one is damaged, or was built for another machine.
        BenchError: they do not answer the same, or not on a CPU.
    """
    manifests = [open_artifact(path, 0) for path in paths]
    first = manifests[0]
    for path, manifest in zip(paths, manifests, strict=True):
        if manifest.build.device != "cpu":
            raise BenchError(
                f"peers are compared on a CPU, {path} was built for {manifest.build.device}; compile it with "
                f"--device cpu"
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
        raise BenchError(f"two artifacts would have one name among {names}; rename a folder")
    return [Compared(*one) for one in zip(names, paths, manifests, strict=True)]


def describe(compared: Sequence[Compared], model: str | None, threads: int, folder: Path) -> Subject:
    """The model that everybody shall run.

    Args:
        compared: at least one artifact.
        model: the checkpoint; as it was named when compiling where left out.
        threads: of every contender.
        folder: where peers keep what they convert.

    Raises:
        BenchError: the checkpoint is not to be had, or there is no tokenizer.
    """
    first = compared[0]
    manifest, name = first.manifest, model or first.manifest.model.name
    try:
        checkpoint = open_checkpoint(name)
    except CheckpointError as error:
        raise BenchError(f"peers need the checkpoint: {error}; say where it is with --model") from error
    tokenization = manifest.tokenization
    if tokenization.file is None and manifest.output.kind != "generate":
        raise BenchError(f"{first.path} was compiled without a tokenizer, and texts are what is measured")
    answer = manifest.output
    pad = checkpoint.config.pad_token_id
    return Subject(
        model=str(checkpoint.root),
        task=manifest.model.task,
        pooling=answer.pooling if isinstance(answer, EmbedInfo) else (),
        normalize=isinstance(answer, EmbedInfo) and answer.normalize,
        max_length=min(_longest(one.manifest) for one in compared),
        tokenizer=first.path / tokenization.file if tokenization.file else None,
        truncation_side=tokenization.truncation_side,
        pad_id=pad if isinstance(pad, int) and pad >= 0 else 0,
        threads=threads,
        folder=folder,
    )


def shown_name(model: str) -> str:
    """A hub id as it is; of a directory its last part, since where it lies is nobody's business."""
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
