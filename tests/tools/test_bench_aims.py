"""The aims: runs on one machine are collected, and the table summarizes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from precast.tools.bench import aims as aims_module
from precast.tools.bench.aims import MIN_TOKEN_AGREEMENT, append_run, decoder_aims, make_aim
from precast.tools.bench.bench_tables import aims
from precast.tools.bench.generation import Prepared, prepare
from precast.tools.bench.generation_models import TINY_SHAPES, Shape

OURS = ("precast bf16", "precast int8")


def one_run(recorded: str, int8: float, rounds: int = 3, equal: float = 0.5) -> dict[str, Any]:
    found = [
        make_aim("32 texts", "best peer", 2.0, {"precast bf16": 1.3, "precast int8": int8}, OURS),
        make_aim("1 text", "best peer", 1.5, {"precast bf16": 1.2, "precast int8": 1.4}, OURS),
        make_aim(
            "targets",
            "best peer",
            1.5,
            {"precast bf16": 1.2, "precast int8": 9},
            ["precast bf16"],
            {"precast bf16": 1.0, "precast int8": equal},
        ),
    ]
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
        "versions": {"torch": "2"},
        "models": {"decoder": "a T5"},
        "threads": 2,
        "rows": [{"recorded": recorded, "rounds": rounds, "aims": found}],
    }


def test_the_table_shows_the_median_of_all_runs_and_their_spread() -> None:
    data: dict[str, Any] | None = None
    for run in (one_run("a", 2.5), one_run("b", 1.9, equal=0.25), one_run("c", 2.104, 5)):
        data = append_run(data, run)
    assert data is not None
    assert [row["recorded"] for row in data["rows"]] == ["a", "b", "c"]
    lines = aims(data).splitlines()
    assert lines[2] == "| 32 texts | best peer | 2× | 1.30× (1.30–1.30) | 2.10× (1.90–2.50) | met |"
    assert lines[3].endswith("| 1.40× (1.40–1.40) | missed |")
    assert lines[4].endswith("| 9.00× (9.00–9.00) | missed |"), "an ineligible artifact meets no aim"
    assert lines[-1].endswith("Lowest token agreement with HF fp32: precast bf16 100.0%, precast int8 25.0%.")
    assert "median of 3 runs" in lines[-1] and "runs of a (3 rounds), b (3 rounds), c (5 rounds)" in lines[-1]


@pytest.mark.parametrize("change", [{"versions": {"torch": "3"}}, {"machine": {}}, {"models": {}}])
def test_another_machine_version_or_model_starts_a_new_file(change: dict[str, Any]) -> None:
    data = append_run(one_run("a", 2.5), one_run("b", 2.0) | change)
    assert [row["recorded"] for row in data["rows"]] == ["b"]


def test_a_single_run_has_no_spread() -> None:
    assert "| 2.50× | met |" in aims(one_run("a", 2.5))


def test_one_run_with_inaccurate_outputs_makes_an_artifact_ineligible() -> None:
    data = append_run(one_run("a", 2.5), one_run("b", 2.5))
    data["rows"][0]["aims"][0]["eligible"] = ["precast bf16"]
    assert aims(data).splitlines()[2].endswith("| missed |")


def test_only_artifacts_with_the_right_tokens_are_eligible(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tiny(shape: Shape, folder: Path, backend: object) -> Prepared:
        return prepare(shape, tmp_path, "reference")

    monkeypatch.setattr(aims_module, "prepare", tiny)
    monkeypatch.setattr(aims_module, "DECODER", TINY_SHAPES[0])
    monkeypatch.setattr(aims_module, "SEARCHES", ((4, 2, 3.0),))
    (found,) = decoder_aims(rounds=1)
    assert found["name"] == "tiny T5, 2 x 4 beams" and all(ratio > 0 for ratio in found["speedup"].values())
    shares = found["token_agreement"]
    assert set(shares) == {"precast bf16", "precast int8", "CTranslate2 int8"}
    assert found["eligible"] == [name for name in found["speedup"] if shares[name] >= MIN_TOKEN_AGREEMENT]
