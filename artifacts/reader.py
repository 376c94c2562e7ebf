"""Opens artifacts: every file is checked before any of them is loaded."""

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
from precast.artifacts.manifest import MANIFEST_NAME, FileInfo, Manifest
from precast.artifacts.parsing import parse_manifest
from precast.artifacts.writer import file_info

MAX_MANIFEST_BYTES = 4 << 20
MAX_ENTRIES = 512
"""Maximum number of files and folders in an artifact."""


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an artifact, and no other file.

    Raises:
        NotAnArtifactError: The folder is not an artifact.
        OversizedError: The manifest is too large.
        UnsafePathError: The manifest is not a regular file, or lists a path outside the artifact.
        UnreadableError: The manifest cannot be read.
        FormatVersionError: The artifact has another format version.
        ManifestError: The manifest is invalid.
    """
    path = folder / MANIFEST_NAME
    with _readable(folder):
        if not folder.is_dir() or not os.path.lexists(path):
            raise NotAnArtifactError(
                f"{folder} is not an artifact: expected a directory with {MANIFEST_NAME}; create one with "
                f"`precast compile MODEL -o {folder}`"
            )
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsafePathError(f"{path} is not a regular file; copy the artifact again without links")
        if status.st_size > MAX_MANIFEST_BYTES:
            raise OversizedError(
                f"{path} has {status.st_size} bytes, expected at most {MAX_MANIFEST_BYTES}; "
                f"copy or compile the artifact again"
            )
        text = path.read_text("utf-8", "surrogateescape")
    return parse_manifest(text, folder)


def open_artifact(folder: Path, device_index: int = 0) -> Manifest:
    """Read the manifest, check the build against this machine, and check every file.

    Args:
        folder: The artifact.
        device_index: The CUDA device that an artifact for CUDA will run on.

    Raises:
        ArtifactError: One of its subclasses; see ``precast.artifacts.errors``.
    """
    manifest = read_manifest(folder)
    check_build(manifest.build, device_index)
    check_files(folder, manifest)
    return manifest


def check_build(build: BuildInfo, device_index: int = 0) -> None:
    """Check that graphs of a build run on this machine. Those of the ``reference`` backend run anywhere.

    Raises:
        DeviceError: There is no such CUDA device, or it has another compute capability.
        ArchitectureError: The processor has another architecture.
        InstructionSetError: The processor lacks an instruction set.
        TorchVersionError: Another release of torch or CUDA is installed.
    """
    if build.backend == "reference":
        return
    if build.cuda is not None:
        _check_cuda(build.cuda, device_index)
    if build.architecture != host.architecture():
        raise ArchitectureError(
            f"the artifact was built for {build.architecture}, this machine is {host.architecture()}; "
            f"{_again()}"
        )
    lacking = sorted(set(build.instruction_sets) - host.instruction_sets())
    if lacking:
        raise InstructionSetError(
            f"the artifact uses instruction sets that this processor lacks: {', '.join(lacking)}; {_again()}"
        )
    if build.torch != host.torch_release():
        raise TorchVersionError(
            f"the artifact was built with torch {build.torch}, found {host.torch_release()}; "
            f"`pip install torch=={build.torch}`, or {_again()}"
        )


def _check_cuda(built: CudaInfo, device_index: int) -> None:
    """Check the device: kernels use instructions that only their architecture has."""
    actual = host.compute_capability(device_index)
    name = sm_name(built.compute_capability)
    if actual is None:
        raise DeviceError(
            f"the artifact was built for CUDA {name}, torch sees no CUDA device {device_index}; "
            f"{_again('--device cpu')}"
        )
    if actual != built.compute_capability:
        raise DeviceError(
            f"the artifact was built for CUDA {name}, device {device_index} is {sm_name(actual)}; "
            f"{_again('--device cuda')}"
        )
    if built.release != host.cuda_release():
        raise TorchVersionError(
            f"the artifact was built with CUDA {built.release}, torch has {host.cuda_release()}; "
            f"{_again('--device cuda')}"
        )


def _again(extra: str = "") -> str:
    """Return the advice to compile here, with further options of the command."""
    command = " ".join(("precast compile MODEL -o OUT", extra)).strip()
    return f"compile it on this machine: `{command}`"


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every listed file is a regular file and unchanged, and that there are no other files.

    Raises:
        OversizedError: There are too many files.
        UnsafePathError: An entry is a link or not a regular file.
        UnexpectedFileError: A file is not listed.
        MissingFileError: A listed file does not exist.
        FileSizeError: The size of a file differs.
        FileHashError: The content of a file differs.
        UnreadableError: A file cannot be read.
    """
    with _readable(folder):
        sizes = _regular_files(folder)
    extra = sorted(set(sizes) - set(manifest.files) - {MANIFEST_NAME})
    if extra:
        raise UnexpectedFileError(
            f"{folder} holds files that its manifest does not list: {extra[:5]}; "
            f"remove them or copy the artifact again"
        )
    missing = sorted(set(manifest.files) - set(sizes))
    if missing:
        raise MissingFileError(f"{folder} lacks {missing[:5]}; copy or compile the artifact again")
    for name, info in manifest.files.items():
        if sizes[name] != info.bytes:
            raise FileSizeError(
                f"{name} has {sizes[name]} bytes, expected {info.bytes}; copy or compile the artifact again"
            )
    with _readable(folder), ThreadPoolExecutor(max_workers=4) as threads:
        # hashlib releases the interpreter lock, so that files are hashed in parallel.
        list(threads.map(_hash_checker(folder), manifest.files.items()))


def _hash_checker(folder: Path) -> Callable[[tuple[str, FileInfo]], None]:
    def check(item: tuple[str, FileInfo]) -> None:
        name, expected = item
        actual = file_info(folder / name)
        if actual != expected:
            raise FileHashError(
                f"{name} has SHA-256 {actual.sha256}, expected {expected.sha256}: it was changed after it "
                f"was written; copy or compile the artifact again"
            )

    return check


def _regular_files(folder: Path) -> dict[str, int]:
    """Return the sizes of all files by path within ``folder``; refuse links, devices and deeper folders."""
    sizes: dict[str, int] = {}
    pending, seen = [folder], 0
    while pending:
        parent = pending.pop()
        with os.scandir(parent) as listing:
            entries = sorted(islice(listing, MAX_ENTRIES - seen + 1), key=lambda entry: entry.name)
        seen += len(entries)
        if seen > MAX_ENTRIES:
            raise OversizedError(
                f"{folder} holds more than {MAX_ENTRIES} entries; remove what is not listed in its manifest"
            )
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            name = entry.name if parent == folder else f"{parent.name}/{entry.name}"
            if stat.S_ISREG(status.st_mode):
                sizes[name] = status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                raise UnsafePathError(
                    f"{name!r} is a link or not a regular file; copy the artifact again without links"
                )
            elif parent != folder:
                raise UnexpectedFileError(
                    f"{name!r} is a folder in a folder, expected one level; copy the artifact again"
                )
            else:
                pending.append(parent / entry.name)
    return sizes


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn errors of the operating system into ``UnreadableError``."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(f"{folder} cannot be read: {error}; copy the artifact again") from error
