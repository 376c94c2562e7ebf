"""Opening an artifact: everything is checked before anything in it is loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from precast.artifacts import host
from precast.artifacts.build_info import BuildInfo, CudaInfo, sm_name
from precast.artifacts.errors import (
    ArchitectureError,
    DeviceError,
    FileHashError,
    FileSizeError,
    InstructionSetError,
    MissingFileError,
    NotAnArtifactError,
    OversizedError,
    TorchVersionError,
    UnexpectedFileError,
    UnreadableError,
    UnsafePathError,
)
from precast.artifacts.manifest import MANIFEST_NAME, FileInfo, Manifest, parse_manifest
from precast.artifacts.writer import file_info

MAX_MANIFEST_BYTES = 4 << 20
MAX_ENTRIES = 512


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact; no other file is looked at.

    Raises:
        NotAnArtifactError, OversizedError, UnsafePathError, UnreadableError, FormatVersionError,
        ManifestError.
    """
    path = folder / MANIFEST_NAME
    with _readable(folder):
        if not folder.is_dir() or not os.path.lexists(path):
            raise NotAnArtifactError(
                f"{folder} is no artifact: expected a directory with {MANIFEST_NAME}; make one with "
                f"`precast compile MODEL -o {folder}`"
            )
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsafePathError(f"{path} is no plain file; copy the artifact again without links")
        if status.st_size > MAX_MANIFEST_BYTES:
            raise OversizedError(f"{path} has {status.st_size} bytes, at most {MAX_MANIFEST_BYTES} are read")
        text = path.read_text("utf-8", "surrogateescape")
    return parse_manifest(text)


def open_artifact(folder: Path, device_index: int = 0) -> Manifest:
    """Read the manifest, hold the build against this machine, and check every file.

    Args:
        folder: the artifact.
        device_index: the CUDA device that an artifact for CUDA shall run on.

    Raises:
        ArtifactError: one of its kinds; see ``artifacts.errors``.
    """
    manifest = read_manifest(folder)
    check_build(manifest.build, device_index)
    check_files(folder, manifest)
    return manifest


def check_build(build: BuildInfo, device_index: int = 0) -> None:
    """Whether graphs built so can run here. A ``reference`` artifact runs anywhere."""
    if build.backend == "reference":
        return
    if build.cuda is not None:
        _check_cuda(build.cuda, device_index)
    if build.architecture != host.architecture():
        raise ArchitectureError(
            f"built for {build.architecture}, this machine is {host.architecture()}; {_again()}"
        )
    lacking = sorted(set(build.instruction_sets) - host.instruction_sets())
    if lacking:
        raise InstructionSetError(
            f"built with instruction sets that this processor lacks: {', '.join(lacking)}; {_again()}"
        )
    if build.torch != host.torch_release():
        raise TorchVersionError(
            f"built with torch {build.torch}, found {host.torch_release()}; "
            f"`pip install torch=={build.torch}`, or {_again()}"
        )


def _check_cuda(built: CudaInfo, device_index: int) -> None:
    """Kernels that use an architecture's own instructions and memory run on that architecture alone."""
    found = host.compute_capability(device_index)
    name = sm_name(built.compute_capability)
    if found is None:
        raise DeviceError(
            f"built for CUDA {name}, torch sees no CUDA device {device_index}; {_again('--device cpu')}"
        )
    if found != built.compute_capability:
        raise DeviceError(
            f"built for CUDA {name}, device {device_index} is {sm_name(found)}; {_again('--device cuda')}"
        )
    if built.release != host.cuda_release():
        raise TorchVersionError(
            f"built with CUDA {built.release}, torch has {host.cuda_release()}; {_again('--device cuda')}"
        )


def _again(extra: str = "") -> str:
    command = " ".join(("precast compile MODEL -o OUT", extra)).strip()
    return f"compile it on this machine: `{command}`"


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every listed file is there, plain and unchanged, and there are no others.

    Raises:
        OversizedError, UnsafePathError, UnexpectedFileError, MissingFileError, FileSizeError, FileHashError,
        UnreadableError.
    """
    with _readable(folder):
        found = _plain_files(folder)
    extra = sorted(set(found) - set(manifest.files) - {MANIFEST_NAME})
    if extra:
        raise UnexpectedFileError(f"{folder} holds files that its manifest does not list: {extra[:5]}")
    missing = sorted(set(manifest.files) - set(found))
    if missing:
        raise MissingFileError(f"{folder} lacks {missing[:5]}; copy or compile the artifact again")
    for name, info in manifest.files.items():
        if found[name] != info.bytes:
            raise FileSizeError(
                f"{name} has {found[name]} bytes, expected {info.bytes}; copy or compile the artifact again"
            )
    with _readable(folder), ThreadPoolExecutor(max_workers=4) as threads:
        # hashlib lets go of the interpreter lock: files are read side by side.
        list(threads.map(_hash_checker(folder), manifest.files.items()))


def _hash_checker(folder: Path) -> Callable[[tuple[str, FileInfo]], None]:
    def check(item: tuple[str, FileInfo]) -> None:
        name, expected = item
        found = file_info(folder / name)
        if found != expected:
            raise FileHashError(
                f"{name} has SHA-256 {found.sha256}, expected {expected.sha256}: it was changed after it "
                f"was written; copy or compile the artifact again"
            )

    return check


def _plain_files(folder: Path) -> dict[str, int]:
    """Sizes of all files by their path within ``folder``; links, devices and deep folders are refused."""
    sizes: dict[str, int] = {}
    pending, seen = [folder], 0
    while pending:
        place = pending.pop()
        with os.scandir(place) as listing:
            entries = sorted(islice(listing, MAX_ENTRIES - seen + 1), key=lambda entry: entry.name)
        seen += len(entries)
        if seen > MAX_ENTRIES:
            raise OversizedError(f"{folder} holds more than {MAX_ENTRIES} entries")
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            name = entry.name if place == folder else f"{place.name}/{entry.name}"
            if stat.S_ISREG(status.st_mode):
                sizes[name] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                raise UnsafePathError(f"{name!r} is a link or no plain file; copy the artifact without links")
            elif place != folder:
                raise UnexpectedFileError(f"{name!r} is a folder in a folder, an artifact has one level")
            else:
                pending.append(place / entry.name)
    return sizes


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Permissions, failing disks and files that vanish meanwhile, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(f"{folder} cannot be read: {error}; copy the artifact again") from error
