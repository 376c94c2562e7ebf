"""Writing an artifact so that a half-written one never loads."""

from __future__ import annotations

import ctypes
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
_HERE = -100  # AT_FDCWD: paths are not relative to an open directory
_EXCHANGE = 2  # RENAME_EXCHANGE


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
        ArtifactExistsError: ``target`` exists and ``overwrite`` is off, or it is something else than an
            artifact: a slip in a path must not cost anybody's files.
    """
    if os.path.lexists(target) and not overwrite:
        raise ArtifactExistsError(f"{target} exists already; choose another path or pass --overwrite")
    if os.path.lexists(target) and not _is_replaceable(target):
        raise ArtifactExistsError(
            f"{target} exists and is no artifact, nothing else is overwritten; choose another path"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write the manifest, last of all files, and put the folder in place with one rename.

    Whoever reads ``target`` meanwhile finds the old artifact or the new one, and after a failure the old
    one. (Where the system cannot exchange two directories there is a moment without either.)
    """
    path = folder / MANIFEST_NAME
    path.write_text(manifest.to_json(), "utf-8")
    for written in folder.rglob("*"):
        if written.is_file():
            _flush(written)
    folder.chmod(0o755)
    if not os.path.lexists(target):
        folder.rename(target)
    elif _exchange(folder, target):
        _remove(folder)
    else:
        _replace(folder, target)


def _is_replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / MANIFEST_NAME).is_file() or not any(target.iterdir()))


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0


def _replace(folder: Path, target: Path) -> None:
    """A directory cannot replace another one that is not empty: the old one steps aside first."""
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.retired-", dir=target.parent))
    try:
        target.rename(retired / "old")
        try:
            folder.rename(target)
        except BaseException:
            (retired / "old").rename(target)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
