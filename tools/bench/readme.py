"""The tables of README and docs, made from the files under ``benchmarks/results/``.

``python -m precast.tools.bench.readme`` rewrites what stands between ``<!-- table: NAME -->`` and
``<!-- end -->``; a test holds the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from precast.tools.bench.bench_tables import aims, cold_start, encoder_bench, floor, profile, steps
from precast.tools.bench.generation_tables import generation, generation_load
from precast.tools.bench.results import read_result

_ROOT = Path(__file__).resolve().parents[2]
PAGES = (_ROOT / "README.md", _ROOT / "docs" / "performance.md")
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def gpu_check(data: dict[str, Any]) -> str:
    if data["rehearsal"] or not data["rows"]:
        return _UNMEASURED
    peers = list(dict.fromkeys(name for row in data["rows"] for name in row["peers"]))
    heads = ["", "measured", "aim", "above its floor", *peers, "published"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in data["rows"]:
        floor = "" if row["times_floor"] is None else f"{row['times_floor']:.2f}×"
        beside = [_figure(row["peers"].get(name), row["unit"]) for name in peers]
        cells = [row["name"], _figure(row["measured"], row["unit"]), _aim(row), floor, *beside]
        lines.append(f"| {' | '.join([*cells, _published(row)])} |")
    return "\n".join([*lines, "", _gpu_origin(data)])


def cross_check(data: dict[str, Any]) -> str:
    machine, rows = data["machine"], data["rows"]
    graphs = sum(row["libraries"] for row in rows)
    return (
        f"{graphs} graphs of {len(rows)} models lowered for {data['architecture']} on {machine['cpu']}, "
        f"torch {data['versions']['torch']}, without a GPU."
    )


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "tokens/s":
        return f"{value / 1e6:.2f} M tokens/s"
    return f"{value:.2f}×" if unit == "x" else f"{value:.3g} {unit}"


def _aim(row: dict[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"{_figure(row['aim'], row['unit'])}, {'met' if row['met'] else 'missed'}"


def _published(row: dict[str, Any]) -> str:
    found = row["published"]
    return "" if found is None else f"{_figure(found['value'], row['unit'])} ({found['who']})"


def _gpu_origin(data: dict[str, Any]) -> str:
    machine, versions, stages = data["machine"], data["versions"], data["stages"]
    failed = [name for name, stage in stages.items() if stage["status"] == "failed"]
    ceilings = stages["machine"].get("ceilings") if "machine" in stages else None
    rates = (
        f" The floor is what {ceilings['bytes_per_s'] / 1e12:.2f} TB/s and "
        f"{ceilings['flops_per_s']['bf16'] / 1e12:.0f} TFLOP/s of bf16, both measured in the same run, allow."
        if ceilings
        else ""
    )
    whole = f"{len(stages) - len(failed)} of {len(stages)} stages passed or had a reason to be skipped"
    return (
        f"Random weights, medians, on {machine.get('gpu')}, driver {machine.get('driver')}, "
        f"CUDA {versions.get('cuda')}, torch {versions['torch']}; {whole}"
        f"{': not ' + ', '.join(failed) if failed else ''}.{rates}"
    )


_UNMEASURED = "Not yet measured on a GPU."
_ABSENT = {"gpu_check": _UNMEASURED, "gpu_check_generation": _UNMEASURED}
"""What stands in place of a table without a result; for all others ``Not measured yet.``"""
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "bench_encoder": encoder_bench,
    "bench_cold_start": cold_start,
    "aims": aims,
    "profile": profile,
    "profile_generation": partial(profile, model="T5-small"),
    "steps": steps,
    "floor": floor,
    "gpu_check": gpu_check,
    "gpu_check_generation": gpu_check,
    "cross_check": cross_check,
    "generation": generation,
    "generation_load": generation_load,
}
_FILES = {
    "generation_load": "generation",
    "bench_cold_start": "bench_encoder",
    "profile_generation": "profile",
}
"""The result that a table is made from, where its name is another."""


def rendered(text: str) -> str:
    """``text`` with every table made anew; one without a result says so."""

    def table(match: re.Match[str]) -> str:
        data = read_result(_FILES.get(match[2], match[2]))
        body = TABLES[match[2]](data) if data else _ABSENT.get(match[2], "Not measured yet.")
        return f"{match[1]}{body}\n{match[3]}"

    return _TABLE.sub(table, text)


def main() -> None:
    for page in PAGES:
        page.write_text(rendered(page.read_text("utf-8")), "utf-8")
    print("the tables are those of benchmarks/results")


if __name__ == "__main__":
    main()
