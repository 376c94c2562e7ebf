"""The cache of compiled graphs, by a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from precast.artifacts import host
from precast.artifacts.writer import file_info
from precast.compiler.cache_folder import cache_folder
from precast.compiler.graph import GraphVariant
from precast.compiler.lowering.backend import Backend, CompiledFile

_SOURCES = (
    "graphs",
    "compiler/models",
    "compiler/sampling",
    "compiler/quantization",
    "compiler/kernels",
    "compiler/lowering",
    "compiler/targets",
)


def find(key: str) -> CompiledFile | None:
    """Return the compiled file of a key, None if there is none or it was damaged."""
    return _read(cache_folder() / "graphs" / key)


def compile_into_cache(key: str, compile_into: Callable[[Path], CompiledFile]) -> CompiledFile:
    """Compile a graph into the cache and return its file there.

    Args:
        key: result of ``cache_key``.
        compile_into: compiles into a given folder.
    """
    folder = cache_folder() / "graphs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        compiled = compile_into(work)
        _describe(work, compiled)
        _put(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return replace(compiled, path=folder / compiled.path.name)


def cache_key(backend: Backend, variant: GraphVariant) -> str:
    """Return the SHA-256 over everything that a compiled file depends on, our own source code included."""
    spec = variant.spec
    content = {
        "backend": backend.name,
        "settings": dict(backend.settings),
        "content": spec.content,
        "signature": asdict(spec.signature),
        "size": variant.size,
        "torch": torch.__version__,
        "machine": [host.architecture(), sorted(host.instruction_sets())],
        "source": source_digest(_SOURCES),
        "weights": weights_digest(spec.module.state_dict().items()) if backend.carries_weights else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def source_digest(folders: tuple[str, ...]) -> str:
    """Return the SHA-256 over our own source code in ``folders``."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted([*(root / folder).rglob("*.py"), *(root / folder).rglob("*.h")]):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _put(work: Path, folder: Path) -> None:
    """Rename ``work`` to ``folder``, unless another process was first: it may be copying from there."""
    try:
        work.rename(folder)
    except OSError:
        if _read(folder) is not None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)


def _describe(folder: Path, compiled: CompiledFile) -> None:
    facts = {
        "file": compiled.path.name,
        "weights": compiled.weights,
        "constants": compiled.constants,
        "choices": dict(compiled.choices),
        "sha256": file_info(compiled.path).sha256,
    }
    (folder / "compiled.json").write_text(json.dumps(facts), "utf-8")


def _read(folder: Path) -> CompiledFile | None:
    try:
        facts = json.loads((folder / "compiled.json").read_text("utf-8"))
        path = folder / facts["file"]
        if file_info(path).sha256 != facts["sha256"]:
            return None
        return CompiledFile(path, facts["weights"], tuple(facts["constants"]), facts["choices"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
