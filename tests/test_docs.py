"""The documentation names existing paths, has links that resolve, and uses the current vocabulary."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_FOLDERS = ("artifacts", "benchmarks", "compiler", "docs", "graphs", "runtime", "src", "tests", "tools")

PATH_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SPEC = ROOT / "artifacts" / "SPEC.md"
CHANGELOG = ROOT / "CHANGELOG.md"
VOCABULARY_PAGES = [*PATH_PAGES, SPEC]
ALL_PAGES = [*VOCABULARY_PAGES, CHANGELOG]

README_LINES = 150
OLD_VOCABULARY = re.compile(
    r"\b(admit\w*|admission\w*|choose\.\w+|ladders?|where left out|at once"
    r"|drawn|stand_ins|in turns|nobody)\b",
    re.IGNORECASE,
)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"<!-- table: \w+ -->.*?<!-- end -->", re.DOTALL)
"""Tables that a command writes; ``tests/tools/test_readme.py`` compares them with the committed results."""
CODE_SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(
    rf"({'|'.join(TOP_FOLDERS)})/[\w./*<>{{}},-]*|Makefile|pyproject\.toml|[a-z]+\.txt|[A-Z]+\.md"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"<\w+>")
BRACES = re.compile(r"\{([^{}]+)\}")

pages = pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)


def named_paths(text: str) -> list[str]:
    """The code spans of a page that are paths inside the repository."""
    return [span for span in CODE_SPAN.findall(FENCED.sub("", text)) if PATH.fullmatch(span)]


def patterns_of(path: str) -> list[str]:
    """Glob patterns for a path with placeholders (``<name>``) and alternatives (``{a,b}``)."""
    parts = BRACES.split(PLACEHOLDER.sub("*", path))
    alternatives = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(choice) for choice in product(*alternatives)]


def missing_paths(text: str) -> list[str]:
    """The named paths that do not exist, and the patterns that match nothing."""
    return sorted(
        {
            path
            for path in named_paths(text)
            for pattern in patterns_of(path)
            if next(ROOT.glob(pattern.rstrip("/")), None) is None
        }
    )


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)}


def broken_links(page: Path) -> list[str]:
    """The links to files or headings that do not exist."""
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text("utf-8"))):
            broken.append(link)
    return broken


def old_words(text: str) -> list[str]:
    """The words of the old vocabulary in hand-written text, line breaks counting as spaces."""
    words = OLD_VOCABULARY.findall(" ".join(GENERATED.sub("", text).split()))
    return sorted({word.lower() for word in words})


@pytest.mark.parametrize("page", [*PATH_PAGES, SPEC], ids=lambda page: page.name)
def test_every_named_path_exists(page: Path) -> None:
    missing = missing_paths(page.read_text("utf-8"))
    assert not missing, f"{page.name} names {missing}, which do not exist; correct the page"


@pages
def test_every_link_to_a_file_resolves(page: Path) -> None:
    broken = broken_links(page)
    assert not broken, f"{page.name} has broken links {broken}"


@pytest.mark.parametrize("page", VOCABULARY_PAGES, ids=lambda page: page.name)
def test_pages_use_the_current_vocabulary(page: Path) -> None:
    words = old_words(page.read_text("utf-8"))
    assert not words, f"{page.name} uses {words}; the glossary in docs/architecture.md has the current terms"


def test_the_readme_is_short() -> None:
    lines = len((ROOT / "README.md").read_text("utf-8").splitlines())
    assert lines <= README_LINES, f"README.md has {lines} lines, expected at most {README_LINES}"


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert all(wanted in text for wanted in ("make demo", "make test", "Python 3.11", "g++"))


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    linked = set(LINK.findall((ROOT / "README.md").read_text("utf-8")))
    pages_of_docs = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages_of_docs <= linked


def test_old_words_are_found_across_lines() -> None:
    assert old_words("all at\nonce, Admitted, `choose.greedy`") == ["admitted", "at once", "choose.greedy"]
    assert old_words("<!-- table: x -->\nin turns\n<!-- end -->") == []


def test_patterns_are_expanded() -> None:
    assert patterns_of("tools/{a,b}/<name>.py") == ["tools/a/*.py", "tools/b/*.py"]
    assert missing_paths("`tests/test_docs.py`, `tests/*.py`, `tests/<name>/`, `graph/x.py`") == []
    assert missing_paths("`tests/{test_docs,absent}.py`, `tests/none_*.py`") == [
        "tests/none_*.py",
        "tests/{test_docs,absent}.py",
    ]
