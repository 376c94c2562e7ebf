"""What is derived from a result of ``precast bench``: speedups, tables and a self-contained report."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from pydantic import ValidationError

from precast.tools.bench import bench_tables
from precast.tools.bench.bench_result import BenchResult, read
from precast.tools.bench.encoder_calls import find_disagreeing
from precast.tools.bench.grids import grids
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.ratios import ratios
from precast.tools.bench.readme import TABLES
from precast.tools.bench.report.markup import Markup, element
from precast.tools.bench.report.page import page
from precast.tools.bench.report.scatter import Point, scatter, ticks
from precast.tools.bench.results import summary
from tests.support.bench_results import OURS, PEER, encoder_result, generation_result

HOSTILE = "<script src='http://x/y.js'>alert(1)</script>\"&"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects every tag with its attributes, and checks that all are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_speedups_are_over_hf_and_over_the_fastest_peer() -> None:
    found = ratios({"ours": 2.0, "ours too": 1.0, REFERENCE: 6.0, "a": 3.0, "b": 4.0}, ["ours", "ours too"])
    assert found["ours"] == {"speedup_vs_hf_fp32": 3.0, "best_peer": "a", "speedup_vs_best_peer": 1.5}
    assert found["b"] == {"speedup_vs_hf_fp32": 1.5, "best_peer": "a", "speedup_vs_best_peer": 0.75}
    assert found[REFERENCE]["speedup_vs_hf_fp32"] == 1.0


def test_an_inaccurate_peer_is_not_the_best() -> None:
    medians = {"ours": 1.0, REFERENCE: 6.0, "a": 2.0, "b": 4.0}
    found = ratios(medians, ["ours"], inexact=["a"])
    assert found["ours"]["best_peer"] == "b" and found["ours"]["speedup_vs_best_peer"] == 4.0
    assert found["a"]["speedup_vs_hf_fp32"] == 3.0


def test_the_quartiles_of_one_round_are_its_time() -> None:
    assert summary([0.002]) == dict.fromkeys(("median_ms", "lower_quartile_ms", "upper_quartile_ms"), 2.0)


def test_a_contender_that_runs_another_model_is_skipped() -> None:
    wanted = np.eye(8, dtype=np.float32)
    outputs = {REFERENCE: wanted, "same": wanted + 1e-5, "other": wanted + 0.1, "shape": wanted[:1]}
    reasons = find_disagreeing(outputs, ["same", "other", "shape"])
    assert set(reasons) == {"other", "shape"} and "cosine" in reasons["other"]
    logits = np.array([[1.0], [2.0]])
    assert set(
        find_disagreeing({REFERENCE: logits, "same": logits, "other": logits + 0.5}, ["same", "other"])
    ) == {"other"}
    assert find_disagreeing({REFERENCE: wanted, "nan": wanted * np.nan}, ["nan"])


@pytest.mark.parametrize("result", [encoder_result(), generation_result()], ids=["encoder", "generation"])
def test_a_result_survives_writing_and_reading(result: BenchResult) -> None:
    assert read(result.model_dump_json()) == result
    with pytest.raises(ValidationError):
        read(result.model_dump_json().replace('"rounds":3', '"rounds":"three"'))
    with pytest.raises(ValidationError):
        read(result.model_dump_json().replace('"rounds"', '"turns"'))


@pytest.mark.parametrize(
    "result", [encoder_result(HOSTILE, HOSTILE), generation_result()], ids=["encoder", "generation"]
)
def test_the_report_is_self_contained_and_escapes_its_content(result: BenchResult) -> None:
    text = page(result)
    found = Page(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    for _, attributes in found.tags:
        assert set(attributes).isdisjoint({"src", "href", "srcset", "action", "style"})
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text
    if result.model == HOSTILE:
        assert text.count("&lt;script src=&#x27;http://x/y.js&#x27;&gt;") == 3  # title, head line, reason
    assert "prefers-color-scheme" in text and "a CPU" in text and "transformers" in text
    assert {"svg", "circle", "rect", "table"} <= {tag for tag, _ in found.tags}


def test_every_contender_is_in_every_chart_and_table() -> None:
    text = page(encoder_result())
    for name in (OURS, REFERENCE, PEER):
        assert text.count(f">{name}<") >= 4  # scatter, waterfall, two tables
    assert f'class="good">1.50×<small> {PEER}</small>' in text and "openvino" in text
    assert ">1.25<" in text  # padding overhead


def test_tables_are_as_wide_as_their_heads() -> None:
    for result in (encoder_result(), generation_result()):
        for grid in grids(result):
            assert grid.rows and len(grid.rows) == len(grid.ours)
            assert {len(row) for row in grid.rows} == {len(grid.heads)}
    first = grids(encoder_result())[0]
    ours = first.rows[0]
    assert [cell.text for cell in ours[:5]] == ["1", OURS, "2.00", "3.00×", "1.50×"]
    assert ours[2].detail == "(1.50–2.50)" and ours[4].detail == PEER
    assert ours[3].good and ours[4].good and not any(cell.good for cell in first.rows[1])


def test_the_readme_has_a_row_for_each_of_ours() -> None:
    table = TABLES["bench_encoder"].render(encoder_result().model_dump(mode="json"))
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 and len({line.count("|") for line in rows}) == 1
    assert rows[2] == f"| short | 1 | {OURS} | 1.50× {PEER} | 1.50× {PEER} | 3.00× | 0.99990 |"
    assert "Not measured: openvino (not installed)." in table and "torch 2" in table


def test_ticks_are_round_and_labels_do_not_overlap() -> None:
    assert ticks(0.3, 30) == pytest.approx([0.5, 1, 2, 5, 10, 20])
    same = [Point(f"contender {number}", 5.0, 100.0, number == 0) for number in range(5)]
    svg = scatter(same, "ms", "texts/s")
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="label', svg)]
    assert len(heights) == 5 and min(np.diff(sorted(heights))) >= 13
    assert isinstance(element("p", Markup("<b>"), "<i>"), Markup)
    assert element("p", Markup("<b></b>"), "<i>", class_="a") == '<p class="a"><b></b>&lt;i&gt;</p>'


def test_the_table_of_steps_has_a_row_for_each() -> None:
    rows = [
        {"model": "M", "work": work, "step": step, "speedup": times}
        for step, times in (("first", 1.0), ("second", 2.5))
        for work in ("short", "long")
    ]
    data = {
        "rows": rows, "rounds": 3, "threads": 2, "versions": {"torch": "2"},
        "machine": {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
    }  # fmt: skip
    lines = bench_tables.steps(data).splitlines()
    assert lines[0] == "|  | M, short | M, long |"
    assert lines[2:4] == ["| first | 1.00× | 1.00× |", "| second | 2.50× | 2.50× |"]


def test_the_table_of_the_floor_has_a_row_for_each_precision() -> None:
    rows = [
        {
            "model": "M",
            "precision": precision,
            "bytes": size,
            "token": {"median_ms": 2.0},
            "step": {"median_ms": 1.6},
            "reading": {"median_ms": reading},
        }
        for precision, size, reading in (("bf16", 77_000_000, 1.5), ("int8", 38_500_000, 0.8))
    ]
    data = {
        "rows": rows, "rounds": 3, "threads": 2, "versions": {"torch": "2"},
        "machine": {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"]},
    }  # fmt: skip
    lines = bench_tables.floor(data).splitlines()
    assert lines[2:4] == ["| M, bf16 | 77.0 MB | 94% | 75% |", "| M, int8 | 38.5 MB | 50% | 40% |"]
