"""Result files: figures with the machine, the package versions and the pass marks they are held against."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precast.tools.bench.machine import machine, versions

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
_PACKAGES = (
    "torch", "transformers", "sentence-transformers", "ctranslate2", "onnxruntime", "onnx", "openvino",
    "tokenizers", "numpy",
)  # fmt: skip


def write_result(
    name: str, content: dict[str, Any], path: Path | None = None, *, bars: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write figures together with the machine and the package versions; return the path.

    Args:
        name: name of the benchmark.
        content: the figures, as JSON.
        path: the file to write, ``benchmarks/results/NAME.json`` by default.
        bars: aims and whether they are met, each made by ``bar``; omitted from the file if empty.
    """
    path = path or FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    described_content = described(name, content | ({"bars": list(bars)} if bars else {}))
    path.write_text(json.dumps(described_content, indent=2) + "\n", "utf-8")
    return path


def described(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return the figures with the machine and the package versions, as ``write_result`` writes them."""
    return {"benchmark": name, "machine": machine(), "versions": versions(*_PACKAGES), **content}


def bar(name: str, aim: float, value: float, *, lower_is_better: bool = False) -> dict[str, Any]:
    """Return an aim, the measured value and whether the value meets the aim.

    Args:
        name: what is measured, with its unit.
        aim: the value to reach.
        value: the measured value, in the unit of ``aim``.
        lower_is_better: true for times and sizes, false for speeds.
    """
    return {
        "name": name,
        "aim": aim,
        "value": value,
        "met": value <= aim if lower_is_better else value >= aim,
    }


def read_result(name: str) -> dict[str, Any] | None:
    """Return the content of ``benchmarks/results/NAME.json``, or None if there is no such file."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the median and both quartiles in milliseconds."""
    samples = seconds if len(seconds) > 1 else [*seconds, *seconds]  # quantiles need two samples
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {
        "median_ms": round(middle * 1e3, 3),
        "lower_quartile_ms": round(low * 1e3, 3),
        "upper_quartile_ms": round(high * 1e3, 3),
    }
