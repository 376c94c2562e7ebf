"""Autotuning: results are recorded in the manifest, and times are reused by the next compilation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torch._inductor import select_algorithm
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from precast.artifacts.reader import read_manifest
from precast.compiler.lowering.autotune_log import autotune_log
from precast.graphs.graph_names import GraphName
from tests.support.artifacts import TinyModels, tiny_artifact


def test_winners_are_recorded_and_kept(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECAST_CACHE", str(tmp_path / "cache"))
    checkpoint = tiny["hidden"].checkpoint
    options = {"backend": "inductor", "prepack": True, "autotune": True, "dtype": "fp32"}
    first = read_manifest(tiny_artifact(checkpoint, tmp_path / "first", **options))
    (variant,) = first.graphs[GraphName.ENCODE].variants
    assert variant.choices, "no autotuned operation was recorded"
    assert all("x" in operation and kernel for operation, kernel in variant.choices.items())

    benchmarks = count_benchmarks(monkeypatch)
    for entry in (tmp_path / "cache" / "graphs").rglob("lowered.json"):
        entry.unlink()
    second = read_manifest(tiny_artifact(checkpoint, tmp_path / "second", **options))
    assert second.graphs[GraphName.ENCODE].variants[0].choices == variant.choices
    assert not benchmarks, "an operation with known times was measured again"


def count_benchmarks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows by one entry with each operation that Inductor measures."""
    measured: list[object] = []
    benchmark: Any = select_algorithm.AlgorithmSelectorCache.benchmark

    def counting(*args: Any, **kwargs: Any) -> Any:
        measured.append(args)
        return benchmark(*args, **kwargs)

    monkeypatch.setattr(select_algorithm.AlgorithmSelectorCache, "benchmark", counting)
    return measured


def test_a_cache_folder_set_by_the_user_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere/else")
    with autotune_log():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere/else"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    with autotune_log():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("inductor")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == default_cache_dir()
