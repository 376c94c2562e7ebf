"""Results on disk."""

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


def write_result(name: str, content: dict[str, Any], path: Path | None = None) -> Path:
    """Write the figures with the machine and the versions beside them.

    Args:
        name: of the benchmark.
        content: JSON.
        path: of the file; ``benchmarks/results/NAME.json`` where left out.
    """
    path = path or FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described(name, content), indent=2) + "\n", "utf-8")
    return path


def described(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The figures with the machine and the versions beside them, as ``write_result`` writes them."""
    return {"benchmark": name, "machine": machine(), "versions": versions(*_PACKAGES), **content}


def read_result(name: str) -> dict[str, Any] | None:
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return data


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median and the quartiles around it, in milliseconds."""
    given = seconds if len(seconds) > 1 else [*seconds, *seconds]  # one alone has no quartiles
    low, middle, high = statistics.quantiles(given, n=4, method="inclusive")
    return {
        "median_ms": round(middle * 1e3, 3),
        "lower_quartile_ms": round(low * 1e3, 3),
        "upper_quartile_ms": round(high * 1e3, 3),
    }
