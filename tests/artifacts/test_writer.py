"""The writer: a complete artifact is published, or none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from precast.artifacts import writer
from precast.artifacts.errors import ArtifactExistsError
from precast.artifacts.manifest import MANIFEST_NAME
from precast.artifacts.writer import file_info, folder_info, publish, staging
from tests.support.artifacts import example_manifest


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(target: Path, word: str, *, overwrite: bool = False) -> None:
    with staging(target, overwrite=overwrite) as folder:
        (folder / "graphs").mkdir()
        (folder / "graphs" / "encode.json").write_text(word)
        publish(folder, example_manifest(), target)


def word(target: Path) -> str:
    return (target / "graphs" / "encode.json").read_text()


def test_sizes_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "graphs").mkdir()
    for name, data in (("a.bin", b""), ("graphs/b.bin", b"x" * (2**20 + 1))):
        (tmp_path / name).write_bytes(data)
        info = file_info(tmp_path / name)
        assert (info.bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert list(folder_info(tmp_path)) == ["a.bin", "graphs/b.bin"]


def test_new_artifact_appears_atomically(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out.precast"
    with staging(target) as folder:
        assert folder.parent == target.parent, "a rename is atomic within one file system only"
        (folder / "file").write_text("x")
        assert not target.exists() and MANIFEST_NAME not in entries(folder)
        publish(folder, example_manifest(), target)
        assert target.is_dir()
    assert entries(target) == ["file", MANIFEST_NAME]
    assert entries(target.parent) == ["out.precast"]
    assert target.stat().st_mode & 0o777 == 0o755, "other users may read it, unlike a temporary folder"


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(writer, "_flush", lambda path: flushed.append(path.name))
    write(tmp_path / "out", "x")
    assert sorted(flushed) == ["encode.json", MANIFEST_NAME], "every file must be flushed to the disk"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_while_building_keeps_the_old_artifact(
    error: type[BaseException], overwrite: bool, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    if overwrite:
        write(target, "old")
    with pytest.raises(error), staging(target, overwrite=overwrite) as folder:
        (folder / "file").write_text("x")
        raise error
    assert entries(tmp_path) == (["out"] if overwrite else [])
    assert not overwrite or word(target) == "old"


@pytest.mark.parametrize("step", ["_flush", "_exchange"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_while_publishing_keeps_the_old_artifact(
    step: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "out"
    if overwrite:
        write(target, "old")
    monkeypatch.setattr(writer, step, interrupt)
    if step == "_exchange" and not overwrite:
        write(target, "new")  # there is nothing to exchange with
        return
    with pytest.raises(KeyboardInterrupt):
        write(target, "new", overwrite=overwrite)
    assert entries(tmp_path) == (["out"] if overwrite else [])
    assert not overwrite or word(target) == "old"


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_overwriting(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    target = tmp_path / "out"
    write(target, "old")
    (target / "left over").write_text("x")
    with pytest.raises(ArtifactExistsError, match="--overwrite"):
        write(target, "new")
    assert word(target) == "old"
    write(target, "new", overwrite=True)
    assert word(target) == "new"
    assert entries(tmp_path) == ["out"] and entries(target) == ["graphs", MANIFEST_NAME]


@pytest.mark.parametrize("which", ["away", "in"])
def test_a_failed_rename_is_undone(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    write(target, "old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if (self == target) == (which == "away") and self.name != "old":
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        write(target, "new", overwrite=True)
    assert entries(tmp_path) == ["out"] and word(target) == "old"


def test_a_link_to_an_artifact_is_replaced_and_the_artifact_kept(tmp_path: Path) -> None:
    write(tmp_path / "real", "old")
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write(tmp_path / "out", "new", overwrite=True)
    assert word(tmp_path / "out") == "new" and word(tmp_path / "real") == "old"
    assert entries(tmp_path) == ["out", "real"] and not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_artifacts_and_empty_folders_are_overwritten(kind: str, overwrite: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        (target / "mine").mkdir(parents=True)
    else:
        target.symlink_to("nowhere")
    with pytest.raises(ArtifactExistsError, match="out exists"):
        write(target, "new", overwrite=overwrite)
    assert entries(tmp_path) == ["out"] and os.path.lexists(target)


def test_an_empty_folder_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", "new", overwrite=True)
    assert word(tmp_path / "out") == "new" and entries(tmp_path) == ["out"]
