"""The cache of measurements: equal artifacts are measured once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from precast.artifacts.reader import read_manifest
from precast.compiler import pipeline
from precast.compiler.errors import ParityError
from precast.compiler.options import CompileOptions
from precast.compiler.progress import ProgressEvent, Stage
from tests.support.artifacts import MAX_BATCH, MAX_LENGTH, MAX_TOKENS, TinyModels

MEASURED = {Stage.PROFILE, Stage.PARITY, Stage.SPEED}


@pytest.fixture
def options(tiny: TinyModels, compiled: Path, tmp_path: Path) -> CompileOptions:
    """The options of the artifact ``compiled``."""
    return CompileOptions(
        str(tiny["classify"].checkpoint), tmp_path / "again", backend="inductor", prepack=False,
        max_length=MAX_LENGTH, max_tokens=MAX_TOKENS, max_batch=MAX_BATCH,
    )  # fmt: skip


def skipped(events: list[ProgressEvent]) -> set[Stage]:
    """Return the stages whose results came from the cache."""
    return {event.stage for event in events if event.from_cache and event.graph is None}


def test_an_equal_artifact_is_not_measured_again(compiled: Path, options: CompileOptions) -> None:
    events: list[ProgressEvent] = []
    result = pipeline.run(options, events.append)
    assert result.from_cache and skipped(events) == MEASURED
    assert result.manifest == read_manifest(compiled)


def test_other_options_are_measured(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precast.compiler.measurements.cache_folder", lambda: tmp_path / "cache")
    pipeline.run(options)
    workload = tmp_path / "workload.json"
    workload.write_text("[3, 5, 8]", "utf-8")
    for change in ({"workload": workload}, {"verify": False}):
        events: list[ProgressEvent] = []
        result = pipeline.run(replace(options, overwrite=True, **change), events.append)
        assert result.from_cache and not skipped(events)


def test_a_damaged_entry_is_measured_again(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precast.compiler.measurements.cache_folder", lambda: tmp_path / "cache")
    first = pipeline.run(options)
    (entry,) = (tmp_path / "cache" / "measurements").iterdir()
    entry.write_text("{", "utf-8")
    events: list[ProgressEvent] = []
    again = pipeline.run(replace(options, overwrite=True), events.append)
    assert not skipped(events) and again.manifest.parity == first.manifest.parity


def test_a_failed_comparison_is_not_kept(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precast.compiler.measurements.cache_folder", lambda: tmp_path / "cache")

    def fail(*_: object) -> None:
        raise ParityError("the outputs differ")

    monkeypatch.setattr(pipeline, "verify_artifact", fail)
    with pytest.raises(ParityError):
        pipeline.run(options)
    assert not (tmp_path / "cache" / "measurements").exists() and not options.output.exists()
