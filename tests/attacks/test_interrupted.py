"""Compilations that are interrupted, and output paths that exist already."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

import precast
from precast.artifacts import writer
from precast.artifacts.errors import ArtifactExistsError, NotAnArtifactError
from precast.artifacts.reader import open_artifact, read_manifest
from precast.compiler import pipeline
from precast.compiler.cache_folder import cache_folder
from precast.compiler.progress import ProgressEvent, Reporter, Stage
from tests.attacks.tampering import assert_serves, workers
from tests.support.artifacts import TinyModels, tiny_artifact

STAGES = list(Stage)


@pytest.fixture
def embed(tiny: TinyModels) -> Path:
    """Return a checkpoint, created before any step is made to fail."""
    return tiny["embed"].checkpoint


@pytest.fixture
def hidden(tiny: TinyModels) -> Path:
    """Return another checkpoint."""
    return tiny["hidden"].checkpoint


class Interruption(BaseException):
    """Like KeyboardInterrupt, not caught by ``except Exception``."""


def fail_in(stage: Stage, error: BaseException, monkeypatch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Let the compilations of a test end with ``error`` when ``stage`` begins or ends."""

    def report(event: ProgressEvent) -> None:
        if event.stage is stage and event.graph is None and event.finished is after:
            raise error

    monkeypatch.setattr(pipeline, "Reporter", lambda progress: Reporter(report))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Interruption()])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", STAGES)
def test_an_interrupted_compilation_leaves_nothing(
    name: Stage,
    after: bool,
    error: BaseException,
    embed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out.precast"
    # Other tests may use the shared cache at the same time.
    monkeypatch.setenv("PRECAST_CACHE", str(embed.with_name("cache")))
    fail_in(name, error, monkeypatch, after=after)
    before = workers()
    with pytest.raises(type(error)):
        tiny_artifact(embed, output)
    assert workers() == before
    assert not [path for path in cache_folder().rglob(".partial-*")]
    if after and name is STAGES[-1]:
        assert entries(tmp_path) == ["out.precast"]  # it was published already
        assert_serves(output)
        return
    assert entries(tmp_path) == []
    with pytest.raises(NotAnArtifactError):
        precast.load(output)


@pytest.mark.parametrize("name", STAGES[:-1])
def test_an_interrupted_overwrite_keeps_the_old_artifact(
    name: Stage, embed: Path, hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tiny_artifact(embed, tmp_path / "out.precast")
    old = read_manifest(output)
    fail_in(name, Interruption(), monkeypatch, after=True)
    with pytest.raises(Interruption):
        tiny_artifact(hidden, output, overwrite=True)
    assert entries(tmp_path) == ["out.precast"]
    assert open_artifact(output) == old


def test_a_failed_lowering_leaves_nothing_in_the_graph_cache(
    embed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("precast.compiler.cache._describe", fails)
    with pytest.raises(OSError, match="No space"):
        tiny_artifact(embed, tmp_path / "out.precast")
    assert entries(tmp_path) == ["cache"]
    assert entries(tmp_path / "cache" / "graphs") == []


def fails(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_existing_output_is_refused_before_any_work(
    embed: Path, hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tiny_artifact(embed, tmp_path / "out.precast")
    old = read_manifest(output)
    monkeypatch.setattr(pipeline, "read_source", fails)
    with pytest.raises(ArtifactExistsError, match="--overwrite"):
        tiny_artifact(hidden, output)
    assert entries(tmp_path) == ["out.precast"]
    assert open_artifact(output) == old


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing", "link to a folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_overwritten(kind: str, overwrite: bool, embed: Path, tmp_path: Path) -> None:
    """``--overwrite`` with a mistyped path must not delete a home directory."""
    output, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    if kind == "file":
        output.write_text("mine")
    elif kind == "folder":
        home.rename(output)
    else:
        output.symlink_to(home if kind == "link to a folder" else "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactExistsError, match="out exists"):
        tiny_artifact(embed, output, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_can_be_overwritten(embed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tiny_artifact(embed, tmp_path / "out", overwrite=True)
    assert entries(tmp_path) == ["out"]
    assert_serves(tmp_path / "out")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_overwriting_replaces_everything(
    exchange: bool, embed: Path, hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    output = tiny_artifact(embed, tmp_path / "out.precast")
    (output / "left.over").write_text("x")
    tiny_artifact(hidden, output, overwrite=True)
    assert entries(tmp_path) == ["out.precast"]
    assert open_artifact(output).model.task == "hidden"


def test_a_failed_rename_puts_the_old_artifact_back(
    embed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tiny_artifact(embed, tmp_path / "out.precast")
    old = read_manifest(output)
    rename = Path.rename

    def only_away(self: Path, target: Path) -> Any:
        if "out.precast.partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(writer, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", only_away)
    with pytest.raises(OSError, match="Input/output"):
        tiny_artifact(embed, output, overwrite=True, max_batch=4)
    assert entries(tmp_path) == ["out.precast"]
    assert open_artifact(output) == old


def test_a_reader_never_finds_the_output_missing_while_it_is_overwritten(embed: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    if not writer._exchange(first, second):
        pytest.skip("this system cannot exchange two directories")
    output = tiny_artifact(embed, tmp_path / "out.precast")
    observed: list[object] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                observed.append(read_manifest(output).limits.max_batch)
            except Exception as error:
                observed.append(error)

    reader = threading.Thread(target=watch)
    reader.start()
    for batch in (5, 6, 7):
        tiny_artifact(embed, output, overwrite=True, max_batch=batch, verify=False)
    done.set()
    reader.join()
    assert set(map(str, observed)) <= {"8", "5", "6", "7"}
    assert output.is_dir()
