"""README's tables are those that the committed results give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precast.tools.bench import readme
from precast.tools.bench.results import FOLDER


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_the_tables_are_made_from_the_committed_files(page: Path) -> None:
    text = page.read_text("utf-8")
    assert readme.rendered(text) == text, "run `make readme`"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_states_its_machine_and_versions(path: object) -> None:
    data = json.loads(path.read_text("utf-8"))  # type: ignore[attr-defined]
    assert data["machine"]["cpu"] and data["machine"]["cores"]
    assert data["versions"]["torch"] and data["rows"]
