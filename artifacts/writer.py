"""Writing an artifact so that a half-written one never loads."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precast.artifacts.errors import ArtifactExistsError
from precast.artifacts.manifest import MANIFEST_NAME, FileInfo, Manifest

_BLOCK = 1 << 20


def file_info(path: Path) -> FileInfo:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return FileInfo(sha256=digest.hexdigest(), bytes=size)


def folder_info(folder: Path) -> dict[str, FileInfo]:
    """Every file of a staged artifact, by its path within it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_info(path) for path in paths}


@contextmanager
def staging(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside ``target`` to build in; it is removed unless ``publish`` moved it away.

    It holds no manifest, so what an interruption leaves behind is no artifact.

    Raises:
        ArtifactExistsError: ``target`` exists and ``overwrite`` is off.
    """
    if target.exists() and not overwrite:
        raise ArtifactExistsError(f"{target} exists already; choose another path or pass --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write the manifest, last of all files, and put the folder in place with one rename."""
    path = folder / MANIFEST_NAME
    path.write_text(manifest.to_json(), "utf-8")
    for written in folder.rglob("*"):
        if written.is_file():
            _flush(written)
    folder.chmod(0o755)
    if not target.exists():
        folder.rename(target)
        return
    # A directory cannot replace another one that is not empty: the old one steps aside first.
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.retired-", dir=target.parent))
    target.rename(retired / "old")
    folder.rename(target)
    shutil.rmtree(retired, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
