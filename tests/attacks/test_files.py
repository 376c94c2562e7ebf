"""Files that are added, missing, moved, linked or modified."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from precast.artifacts import reader
from precast.artifacts.errors import (
    FileHashError,
    FileSizeError,
    FormatVersionError,
    ManifestError,
    MissingFileError,
    NotAnArtifactError,
    OversizedError,
    UnexpectedFileError,
    UnreadableError,
    UnsafePathError,
)
from precast.artifacts.reader import read_manifest
from tests.attacks.tampering import (
    GRAPH,
    MANIFEST,
    TOKENIZER,
    WEIGHTS,
    Attack,
    Tamper,
    assert_refused,
    assert_serves,
    copy_of,
    refusal,
)
from tests.support.artifacts import TinyModels

FILES = (GRAPH, WEIGHTS, TOKENIZER)


def add(name: str, data: bytes = b"x") -> Tamper:
    def tamper(folder: Path) -> None:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return tamper


def remove(name: str) -> Tamper:
    def tamper(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return tamper


def move_away_and_link(name: str) -> Tamper:
    """Replace a file by a link to its unchanged content."""

    def tamper(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return tamper


def replace_by_fifo(name: str) -> Tamper:
    """Replace a file by a pipe, which blocks a reader forever."""

    def tamper(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return tamper


def cut(name: str, keep: float) -> Tamper:
    def tamper(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return tamper


def grow(name: str, data: bytes = b"\0") -> Tamper:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + data)


def many(count: int, *, folders: bool) -> Tamper:
    def tamper(folder: Path) -> None:
        for number in range(count):
            path = folder / f"extra{number}"
            path.mkdir() if folders else path.touch()

    return tamper


def nest(depth: int) -> Tamper:
    """Nest folders, one call a level: the whole path is longer than a system call accepts."""

    def tamper(folder: Path) -> None:
        here = os.open(folder, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d" * 100, dir_fd=here)
            inner = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)

    return tamper


def replace_folder_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}")


ATTACKS = {
    "an additional file": Attack(add("extra.so"), UnexpectedFileError, r"extra\.so"),
    "an additional file in the folder of graphs": Attack(
        add("graphs/more.so"), UnexpectedFileError, "graphs/more"
    ),
    "an additional file in an additional folder": Attack(add("more/x.so"), UnexpectedFileError, "more/x"),
    "a hidden file": Attack(add(".hidden"), UnexpectedFileError, r"\.hidden"),
    "a second manifest": Attack(add("graphs/manifest.json"), UnexpectedFileError, "graphs/manifest"),
    "a name with a newline": Attack(add("a\nb"), UnexpectedFileError, r"a\\nb"),
    "a name that is not text": Attack(add("\udcff\udcfe"), UnexpectedFileError, "udcff"),
    "a name with a backslash": Attack(add("graphs\\encode.json"), UnexpectedFileError, "encode"),
    "a folder in a folder": Attack(add("graphs/in/x.so"), UnexpectedFileError, "in"),
    "folders without end": Attack(nest(300), UnexpectedFileError, "folder in a folder"),
    "513 files": Attack(many(513, folders=False), OversizedError, "512"),
    "513 folders": Attack(many(513, folders=True), OversizedError, "512"),
    "a link to a file": Attack(move_away_and_link(WEIGHTS), UnsafePathError, WEIGHTS),
    "a link to a graph": Attack(move_away_and_link(GRAPH), UnsafePathError, GRAPH),
    "a link to a folder": Attack(move_away_and_link("graphs"), UnsafePathError, "graphs"),
    "a linked manifest": Attack(move_away_and_link(MANIFEST), UnsafePathError, MANIFEST),
    "an additional link": Attack(lambda f: (f / "more").symlink_to("/"), UnsafePathError, "more"),
    "a link to nothing": Attack(lambda f: (f / "more").symlink_to("nowhere"), UnsafePathError, "more"),
    "an additional pipe": Attack(replace_by_fifo("pipe"), UnsafePathError, "pipe"),
    "a pipe as weights": Attack(replace_by_fifo(WEIGHTS), UnsafePathError, WEIGHTS),
    "a pipe as manifest": Attack(replace_by_fifo(MANIFEST), UnsafePathError, MANIFEST),
    "no manifest": Attack(remove(MANIFEST), NotAnArtifactError, "precast compile"),
    "no directory": Attack(lambda f: shutil.rmtree(f), NotAnArtifactError, "tampered"),
    "a file instead of a folder": Attack(replace_folder_by_file, NotAnArtifactError, "directory"),
    "no graphs folder": Attack(remove("graphs"), MissingFileError, GRAPH),
    **{f"no {name}": Attack(remove(name), MissingFileError, name) for name in FILES},
    **{
        f"{name} cut to {keep:.0%}": Attack(cut(name, keep), FileSizeError, r"\d+ bytes, expected \d+")
        for name in FILES
        for keep in (0, 0.5, 0.99)
    },
    **{f"{name} grown": Attack(grow(name), FileSizeError, r"\d+ bytes, expected \d+") for name in FILES},
    **{
        f"the manifest cut to {keep:.0%}": Attack(cut(MANIFEST, keep), ManifestError, "not JSON")
        for keep in (0, 0.5, 0.99)
    },
    "the manifest grown": Attack(grow(MANIFEST, b"{}"), ManifestError, "not JSON"),
    "the manifest grown beyond its maximum size": Attack(
        grow(MANIFEST, b" " * reader.MAX_MANIFEST_BYTES), OversizedError, str(reader.MAX_MANIFEST_BYTES)
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(name: str, tiny: TinyModels, tmp_path: Path) -> None:
    good = tiny["embed"].artifact
    tampered = copy_of(good, tmp_path)
    ATTACKS[name].tamper(tampered)
    assert_refused(tampered, ATTACKS[name], good)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(name: str, tiny: TinyModels, tmp_path: Path) -> None:
    tampered = copy_of(tiny["classify"].artifact, tmp_path)
    good = (tampered / name).read_bytes()
    rng = random.Random(name)
    for at in [0, len(good) * 8 - 1, *(rng.randrange(len(good) * 8) for _ in range(20))]:
        flip(tampered / name, good, at)
        error = refusal(tampered)
        assert type(error) is FileHashError and name in str(error), f"bit {at}: {error!r}"
    (tampered / name).write_bytes(good)
    assert_serves(tampered)


def test_every_flipped_bit_of_the_manifest_is_found(tiny: TinyModels, tmp_path: Path) -> None:
    """Only the digest protects the manifest, so many more bits are tried."""
    tampered = copy_of(tiny["classify"].artifact, tmp_path)
    path = tampered / MANIFEST
    good, original = path.read_bytes(), read_manifest(tampered)
    for at in range(0, len(good.rstrip()) * 8, 31):
        flip(path, good, at)
        try:
            manifest = read_manifest(tampered)
        except (ManifestError, FormatVersionError):
            continue
        assert manifest == original, (
            f"bit {at} changes the manifest unnoticed"
        )  # 1e-06 and 1E-06 differ in one bit
    path.write_bytes(good)
    assert_serves(tampered)


def flip(path: Path, data: bytes, bit: int) -> None:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


@pytest.mark.parametrize("function", ["scandir", "file_info"])
def test_unreadable_files_raise_a_precast_error(
    function: str, tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is simulated, because permissions do not stop a test that runs as root."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    tampered = copy_of(tiny["embed"].artifact, tmp_path)
    monkeypatch.setattr(*((os, "scandir") if function == "scandir" else (reader, "file_info")), refuse)
    with pytest.raises(UnreadableError, match="Permission denied"):
        reader.open_artifact(tampered)
    monkeypatch.undo()
    assert_serves(tampered)


def test_an_artifact_loads_through_a_link_to_its_folder(tiny: TinyModels, tmp_path: Path) -> None:
    """Only links inside an artifact are refused."""
    (tmp_path / "link").symlink_to(tiny["embed"].artifact)
    assert_serves(tmp_path / "link")
