"""The aims: runs of one machine stand side by side, and the table says what they found."""

from __future__ import annotations

from typing import Any

import pytest

from precast.tools.bench.aims import aim, joined
from precast.tools.bench.bench_tables import aims

OURS = ("precast bf16", "precast int8")


def one_run(recorded: str, int8: float, rounds: int = 3) -> dict[str, Any]:
    found = [
        aim("32 texts", "best peer", 2.0, {"precast bf16": 1.3, "precast int8": int8}, OURS),
        aim("1 text", "best peer", 1.5, {"precast bf16": 1.2, "precast int8": 1.4}, OURS),
        aim("targets", "best peer", 1.5, {"precast bf16": 1.2, "precast int8": 9}, ["precast bf16"]),
    ]
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
        "versions": {"torch": "2"},
        "threads": 2,
        "rows": [{"recorded": recorded, "rounds": rounds, "aims": found}],
    }


def test_runs_stand_side_by_side() -> None:
    data = joined(joined(joined(None, one_run("a", 2.5)), one_run("b", 1.9)), one_run("c", 2.104, 5))
    assert [row["recorded"] for row in data["rows"]] == ["a", "b", "c"]
    lines = aims(data).splitlines()
    assert lines[2] == "| 32 texts | best peer | 2× | 1.30× (1.30–1.30) | 2.10× (1.90–2.50) | met |"
    assert lines[3].endswith("| 1.40× (1.40–1.40) | missed |")
    assert lines[4].endswith("| 9.00× (9.00–9.00) | missed |"), "who does not count meets no aim"
    assert "median of 3 runs" in lines[-1] and "runs of a (3 rounds), b (3 rounds), c (5 rounds)" in lines[-1]


@pytest.mark.parametrize("change", [{"versions": {"torch": "3"}}, {"machine": {}}])
def test_another_machine_or_version_begins_anew(change: dict[str, Any]) -> None:
    data = joined(one_run("a", 2.5), one_run("b", 2.0) | change)
    assert [row["recorded"] for row in data["rows"]] == ["b"]


def test_a_single_run_has_no_spread() -> None:
    assert "| 2.50× | met |" in aims(one_run("a", 2.5))
