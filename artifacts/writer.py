"""Writes artifacts atomically: an incomplete artifact never loads."""

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
    """Return the size and SHA-256 of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return FileInfo(sha256=digest.hexdigest(), bytes=size)


def folder_info(folder: Path) -> dict[str, FileInfo]:
    """Return the size and SHA-256 of every file in a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_info(path) for path in paths}


@contextmanager
def staging(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Create a folder next to ``target`` to build in; it is removed unless ``publish`` moved it.

    It holds no manifest, so an interrupted build leaves no artifact behind.

    Raises:
        ArtifactExistsError: ``target`` exists and ``overwrite`` is off, or it is not an artifact: a mistyped
            path must not delete other files.
    """
    if os.path.lexists(target) and not overwrite:
        raise ArtifactExistsError(f"{target} exists already; choose another path or pass --overwrite")
    if os.path.lexists(target) and not _is_replaceable(target):
        raise ArtifactExistsError(
            f"{target} exists and is not an artifact; choose another path, or remove it first"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write the manifest as the last file and move the folder to ``target`` with one rename.

    A concurrent reader of ``target`` finds the old artifact or the new one; after a failure, the old one.
    If the operating system cannot exchange two directories, ``target`` is briefly missing.
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


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; return False if the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done: int = rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE)
    return done == 0


def _replace(folder: Path, target: Path) -> None:
    """Move the old directory away first: a rename cannot replace a directory that is not empty."""
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
