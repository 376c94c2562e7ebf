"""README's tables, made from the files under ``benchmarks/results/``.

``python -m precast.tools.bench.readme`` rewrites what stands between ``<!-- table: NAME -->`` and
``<!-- end -->``; a test holds the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from precast.tools.bench.results import read_result

README = Path(__file__).resolve().parents[2] / "README.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def encoder_throughput(data: dict[str, Any]) -> str:
    lines = [
        "| 32 texts | | against HF eager fp32 | against HF eager bf16 | least cosine to HF fp32 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['texts']} | {row['contender']} | {row['times_hf_fp32']:.2f}× | "
        f"{row['times_hf_bf16']:.2f}× | {row['least_cosine']:.5f} |"
        for row in data["rows"]
        if row["contender"].startswith("precast")
    ]
    return "\n".join([*lines, "", _origin(data)])


def cold_start(data: dict[str, Any]) -> str:
    lines = ["| | load | first embedding | both, against sentence-transformers |", "|---|---|---|---|"]
    lines += [
        f"| {row['contender']} | {row['phases_s']['load']:.2f} s | "
        f"{row['phases_s']['first embedding']:.2f} s | {row['times_sentence_transformers']:.1f}× |"
        for row in data["rows"]
    ]
    return "\n".join([*lines, "", _origin(data)])


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "encoder_throughput": encoder_throughput,
    "cold_start": cold_start,
}


def rendered(text: str) -> str:
    """``text`` with every table made anew; one without a result says so."""

    def table(match: re.Match[str]) -> str:
        data = read_result(match[2])
        body = TABLES[match[2]](data) if data else "Not measured yet."
        return f"{match[1]}{body}\n{match[3]}"

    return _TABLE.sub(table, text)


def _origin(data: dict[str, Any]) -> str:
    machine = data["machine"]
    sets = ", ".join(machine["instruction_sets"])
    return (
        f"{data['model']}, median of {data['rounds']} rounds in turns on {machine['cpu']}, "
        f"{machine['cores']} cores ({sets}), torch {data['versions']['torch']}. Ratios count, not times."
    )


def main() -> None:
    README.write_text(rendered(README.read_text("utf-8")), "utf-8")
    print("README's tables are those of benchmarks/results")


if __name__ == "__main__":
    main()
