"""Loaded libraries are identified by their content, and unloaded with their engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import precast
from tests.support.artifacts import tiny_artifact, tiny_checkpoint

IDS = [2, 5, 9, 3]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of the same shape, each with its weights inside the library."""
    if shutil.which("g++") is None:
        pytest.skip("compiling needs g++")
    folder = tmp_path_factory.mktemp("versions")
    return [
        tiny_artifact(
            tiny_checkpoint("hidden", folder / f"checkpoint{seed}", seed=seed),
            folder / f"{seed}.precast",
            backend="inductor",
            verify=False,
        )
        for seed in (1, 2)
    ]


def hidden(path: Path) -> np.ndarray:
    with precast.load(path) as engine:
        found: np.ndarray = engine.encode(IDS).hidden
    return found


def executable_mappings() -> int:
    return sum(line.split()[1] == "r-xp" for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_new_artifact_at_an_old_path_is_loaded(versions: list[Path], tmp_path: Path) -> None:
    old, new = map(hidden, versions)
    assert np.abs(old - new).max() > 0.1
    served = tmp_path / "served"
    for version, expected in zip(versions, (old, new), strict=True):
        shutil.rmtree(served, ignore_errors=True)
        shutil.copytree(version, served)
        np.testing.assert_array_equal(hidden(served), expected)


def test_versions_served_from_one_path_at_the_same_time(versions: list[Path], tmp_path: Path) -> None:
    old, new = map(hidden, versions)
    served = tmp_path / "served"
    shutil.copytree(versions[0], served)
    with precast.load(served) as first:
        shutil.rmtree(served)
        shutil.copytree(versions[1], served)
        with precast.load(served) as second:
            np.testing.assert_array_equal(first.encode(IDS).hidden, old)
            np.testing.assert_array_equal(second.encode(IDS).hidden, new)


def test_a_closed_engine_leaves_no_library(versions: list[Path], tmp_path: Path) -> None:
    counts = []
    for turn in range(3):
        place = tmp_path / f"version{turn}"
        shutil.copytree(versions[0], place)
        hidden(place)
        counts.append(executable_mappings())
    assert len(set(counts)) == 1, counts
