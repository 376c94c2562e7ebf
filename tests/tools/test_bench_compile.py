"""The compile-time benchmark: which caches each process gets, and how aims are judged."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from precast.tools.bench import compile_time, machine
from precast.tools.bench.bench_tables import compile_times
from precast.tools.bench.compile_time import AIM_WARM_S, Case, bars, measure, run_precast
from precast.tools.bench.results import bar, write_result

MODELS = [
    Case("encoder", Path("a"), "encoder", 20.0),
    Case("first", Path("b"), "encoder-decoder", 80.0),
    Case("second", Path("c"), "encoder-decoder", 25.0),
]
SECONDS = [19.5, 2.0, 90.0, 3.0, 25.0, 7.5]


class FakeRunner:
    """Answers with prepared times, and leaves a file in the cache as a compilation would."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, str], bool]] = []

    def __call__(
        self, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[float, dict[str, Any]]:
        cache = Path(environment["PRECAST_CACHE"])
        filled = cache.is_dir()
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "graph").touch()
        seconds = SECONDS[len(self.calls)]
        self.calls.append((list(arguments), dict(environment), filled))
        return seconds, {"seconds": {"compile the graphs": seconds - 1}, "from_cache": filled}


def test_caches_are_empty_at_first_and_shared_by_the_encoder_decoders(tmp_path: Path) -> None:
    stale = tmp_path / "caches" / "encoder"
    stale.mkdir(parents=True)
    runner = FakeRunner()
    rows = measure(MODELS, tmp_path, runner)
    assert [filled for _, _, filled in runner.calls] == [False, True, False, True, True, True]
    assert [row["seconds"] for row in rows] == SECONDS
    assert [row["compilation"] for row in rows] == ["first", "again"] * 3
    for arguments, environment, _ in runner.calls:
        assert arguments[0] == "compile" and {"--overwrite", "--json"} <= set(arguments)
        assert environment["TORCHINDUCTOR_CACHE_DIR"].startswith(environment["PRECAST_CACHE"])
    assert len({environment["PRECAST_CACHE"] for _, environment, _ in runner.calls}) == 2


def test_aims_are_judged_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measure(MODELS, tmp_path, FakeRunner())
    found = bars(MODELS, rows)
    assert [(one["aim"], one["value"], one["met"]) for one in found] == [
        (20.0, 19.5, True), (80.0, 90.0, False), (25.0, 25.0, True), (AIM_WARM_S, 7.5, False),
    ]  # fmt: skip
    path = write_result("compile", {"rows": rows}, tmp_path / "compile.json", bars=found)
    data = json.loads(path.read_text("utf-8"))
    assert data["bars"] == found and data["machine"]["cores"] and data["versions"]["torch"]
    lines = compile_times(data).splitlines()
    assert "| first | 90.0 s | 3.0 s |" in lines
    assert any("compile first, s: 90 (aim 80, missed)" in line for line in lines)


def test_a_result_without_aims_has_no_bars(tmp_path: Path) -> None:
    path = write_result("x", {"rows": [1]}, tmp_path / "x.json")
    assert "bars" not in json.loads(path.read_text("utf-8"))
    assert bar("speed", 2.0, 2.0)["met"] and not bar("speed", 2.0, 1.9)["met"]


def test_a_failed_command_is_reported_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(returncode=2, stdout="", stderr="CompileError: no such model")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit, match=r"precast compile x failed:\nCompileError: no such model"):
        run_precast(["compile", "x"], {})


def test_the_last_line_of_the_output_is_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=0, stdout='a library speaks\n{"from_cache": true}\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    seconds, report = run_precast(["compile", "x"], {})
    assert seconds >= 0 and report == {"from_cache": True}


def test_the_rates_of_the_machine_are_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(machine, "_MATRIX_SIDE", 64)
    monkeypatch.setattr(machine, "_REPEATS", 1)
    rates = machine.measured_rates()
    assert set(rates) == {"memory_gb_per_s", "fp32_tflop_per_s", "bf16_tflop_per_s"}
    assert all(rate >= 0 for rate in rates.values())


def test_the_models_have_the_shapes_that_the_aims_name() -> None:
    assert [shape.kind for shape in compile_time.SHAPES] == ["t5", "marian"]
    assert all(shape.training is None and shape.layers == 6 for shape in compile_time.SHAPES)
