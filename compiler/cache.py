"""Lowered graphs, kept by what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from precast.artifacts import host
from precast.artifacts.writer import file_info
from precast.compiler.lowering.backend import Backend, Lowered
from precast.graphs.signature import Signature

_SOURCES = (
    "graphs",
    "compiler/models",
    "compiler/sampling",
    "compiler/quantization",
    "compiler/kernels",
    "compiler/lowering",
)


def cache_folder() -> Path:
    """``$PRECAST_CACHE``, else ``precast`` in the user's cache folder."""
    named = os.environ.get("PRECAST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "precast"


@dataclass(frozen=True)
class GraphSource:
    """A graph before it is lowered."""

    module: nn.Module
    signature: Signature
    content: Mapping[str, Any] | None
    """What the module was made from, besides weights, as JSON has it. None for a graph without weights: our
    own code and its signature say all of it, and every model shares it."""
    tuned: Callable[[int], nn.Module] | None = None
    """The module for one size, with the same weights, where what it computes with depends on the size."""


def cached_lower(backend: Backend, source: GraphSource, size: int) -> tuple[Lowered, bool]:
    """Lower a module, or take what an earlier call with the same content made.

    Args:
        backend: that lowers.
        source: the graph.
        size: that kernels are chosen for.

    Returns:
        The lowered graph inside the cache, and whether it was there already.
    """
    folder = cache_folder() / "graphs" / cache_key(backend, source, size)
    found = _read(folder)
    if found is not None:
        return found, True
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        module = source.module if source.tuned is None else source.tuned(size)
        lowered = backend.lower(module, source.signature, size, work)
        _describe(work, lowered)
        _put(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return replace(lowered, path=folder / lowered.path.name), False


def cache_key(backend: Backend, source: GraphSource, size: int) -> str:
    """SHA-256 over everything that the lowered file depends on, our own source code included."""
    content = {
        "backend": backend.name,
        "settings": backend.settings,
        "content": source.content,
        "signature": asdict(source.signature),
        "size": size,
        "torch": torch.__version__,
        "machine": [host.architecture(), sorted(host.instruction_sets())],
        "source": _source_digest(),
        "weights": weights_digest(source.module.state_dict().items()) if backend.carries_weights else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def _source_digest() -> str:
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted([*(root / folder).rglob("*.py"), *(root / folder).rglob("*.h")]):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _put(work: Path, folder: Path) -> None:
    """Rename ``work`` to ``folder``, unless another process was as fast: it may be copying from there."""
    try:
        work.rename(folder)
    except OSError:
        if _read(folder) is not None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)


def _describe(folder: Path, lowered: Lowered) -> None:
    facts = {
        "file": lowered.path.name,
        "weights": lowered.weights,
        "constants": lowered.constants,
        "choices": dict(lowered.choices),
        "sha256": file_info(lowered.path).sha256,
    }
    (folder / "lowered.json").write_text(json.dumps(facts), "utf-8")


def _read(folder: Path) -> Lowered | None:
    """A cached graph; None if there is none or it was damaged."""
    try:
        facts = json.loads((folder / "lowered.json").read_text("utf-8"))
        path = folder / facts["file"]
        if file_info(path).sha256 != facts["sha256"]:
            return None
        return Lowered(path, facts["weights"], tuple(facts["constants"]), facts["choices"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
