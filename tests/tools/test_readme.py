"""The tables of README.md and docs/*.md are those that the committed results give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precast.tools.bench import readme
from precast.tools.bench.results import FOLDER


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_tables_match_the_committed_results(page: Path) -> None:
    text = page.read_text("utf-8")
    assert readme.rendered(text) == text, "run `make readme`"


def test_every_page_of_the_docs_is_searched_for_tables() -> None:
    root = FOLDER.parents[1]
    assert set(readme.PAGES) == {root / "README.md", *(root / "docs").glob("*.md")}


@pytest.mark.parametrize("name", readme.TABLES)
def test_every_table_renders_as_rectangular_markdown(name: str) -> None:
    lines = [line for line in readme.TABLES[name].text().splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) <= 1


def test_the_speed_table_is_short_and_states_its_peers() -> None:
    table = readme.TABLES["speed"].text().splitlines()
    rows = [line for line in table[2:] if line.startswith("|")]
    assert 0 < len(rows) <= 8
    assert all("best peer" in row or "CTranslate2 int8" in row for row in rows)
    assert "interleaved rounds" in table[-1]


def test_the_speed_table_shows_the_figures_of_the_results() -> None:
    (row,) = (
        row
        for row in json.loads((FOLDER / "generation.json").read_text("utf-8"))["rows"]
        if (row["shape"], row["batch"], row["beams"], row["contender"]) == ("T5-small", 16, 4, "precast int8")
    )
    expected = f"{row['tokens_per_s']:,.0f} tokens/s, **{row['speedup_vs_ctranslate2_int8']:.1f}×**"
    (line,) = (line for line in readme.TABLES["speed"].text().splitlines() if "4 beams, batch 16" in line)
    assert expected in line


def test_an_unknown_marker_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        readme.rendered("<!-- table: nothing -->\n<!-- end -->")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_states_its_machine_and_versions(path: Path) -> None:
    data = json.loads(path.read_text("utf-8"))
    assert data["machine"]["cpu"] and data["machine"]["cores"]
    assert data["versions"]["torch"] and data["rows"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_bars_of_a_result_are_judged(path: Path) -> None:
    for bar in json.loads(path.read_text("utf-8")).get("bars", []):
        assert set(bar) == {"name", "aim", "value", "met"} and isinstance(bar["met"], bool)
