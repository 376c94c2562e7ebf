"""The tables of README.md and docs/*.md, made from the files under ``benchmarks/results/``.

``python -m precast.tools.bench.readme`` replaces the text between ``<!-- table: NAME -->`` and
``<!-- end -->`` on every page; a test checks that the pages are up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from precast.tools.bench.bench_tables import (
    aims,
    cold_start,
    compile_times,
    encoder_bench,
    floor,
    profile,
    steps,
)
from precast.tools.bench.generation_tables import UNMEASURED, generation, generation_load, speed
from precast.tools.bench.gpu_tables import UNMEASURED_GPU, cross_check, gpu_check
from precast.tools.bench.results import read_result

_ROOT = Path(__file__).resolve().parents[2]
PAGES = (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A table of the pages.

    Attributes:
        render: returns the table's Markdown, given the contents of ``results`` in order.
        results: names of the result files.
        unmeasured: the text in place of the table if a result file is missing.
    """

    render: Callable[..., str]
    results: tuple[str, ...]
    unmeasured: str = UNMEASURED

    def text(self) -> str:
        """Return the Markdown of the table, from the result files."""
        data = [read_result(name) for name in self.results]
        return self.unmeasured if None in data else self.render(*data)


TABLES: dict[str, Table] = {
    "speed": Table(speed, ("bench_encoder", "generation")),
    "bench_encoder": Table(encoder_bench, ("bench_encoder",)),
    "bench_cold_start": Table(cold_start, ("bench_encoder",)),
    "aims": Table(aims, ("aims",)),
    "compile": Table(compile_times, ("compile",)),
    "profile": Table(profile, ("profile",)),
    "profile_generation": Table(partial(profile, model="T5-small"), ("profile",)),
    "steps": Table(steps, ("steps",)),
    "floor": Table(floor, ("floor",)),
    "gpu_check": Table(gpu_check, ("gpu_check",), UNMEASURED_GPU),
    "gpu_check_generation": Table(gpu_check, ("gpu_check_generation",), UNMEASURED_GPU),
    "cross_check": Table(cross_check, ("cross_check",)),
    "generation": Table(generation, ("generation",)),
    "generation_load": Table(generation_load, ("generation",)),
}


def rendered(page: str) -> str:
    """Return the text of a page with every marked table made anew.

    Raises:
        KeyError: a marker names no table.
    """
    return _TABLE.sub(lambda match: f"{match[1]}{TABLES[match[2]].text()}\n{match[3]}", page)


def main() -> None:
    for page in PAGES:
        page.write_text(rendered(page.read_text("utf-8")), "utf-8")
    print(f"updated the tables of {', '.join(page.name for page in PAGES)}")


if __name__ == "__main__":
    main()
