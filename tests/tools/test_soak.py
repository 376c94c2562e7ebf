"""The soak test: its requests, and the faults that it must notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from precast.tools import synthetic
from precast.tools.bench import soak


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(synthetic.TRAINING, "t5", synthetic.Training(steps=30, batch=32))
        patch.setattr(soak, "DISTINCT", 12)
        return soak.soak(tmp_path_factory.mktemp("soak"), 120, 3, "reference")


def test_every_request_completes_with_the_right_output_or_is_cancelled(result: dict[str, Any]) -> None:
    assert result["completed"] + result["cancelled"] == result["requests"] == 120
    assert 0 < result["cancelled"] < 60
    assert not result["mismatches"] and not result["lost"] and not result["hf_mismatches"]
    assert result["num_seqs_used"] == result["self_blocks_used"] == result["cross_blocks_used"] == 0
    assert list(result["rss_bytes"]) == [f"{part}%" for part in range(10, 101, 10)]


@pytest.mark.parametrize(
    "name", ["failed", "lost", "mismatches", "self_blocks_used", "cross_blocks_used", "num_seqs_used"]
)
def test_any_wrong_figure_is_a_problem(result: dict[str, Any], name: str) -> None:
    good = {**result, "rss_growth_bytes": 0}
    assert soak.problems(good) == []
    assert soak.problems({**good, name: 1}) == [f"{name}: 1"]


def test_growth_is_a_problem(result: dict[str, Any]) -> None:
    assert soak.problems({**result, "rss_growth_bytes": soak.MAX_GROWTH}) == []
    (line,) = soak.problems({**result, "rss_growth_bytes": soak.MAX_GROWTH + 1})
    assert line.startswith("memory grew")


def test_a_different_output_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = soak.Request("3 May 1999", {"max_length": 8})
    outcome = soak.Outcome()

    class Finished:
        def result(self, timeout: float) -> Any:
            return [[1, 2, 3]]

    monkeypatch.setattr(soak, "tokens_of", lambda output: output)
    soak._check(0, Finished(), [one], [[[1, 2, 4]]], outcome, 1)
    assert outcome.completed == 1 and len(outcome.mismatches) == 1
