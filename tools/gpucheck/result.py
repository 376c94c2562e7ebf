"""The result file, rewritten after every stage, so that a run that is killed keeps its results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from precast.tools.bench.machine import machine, versions
from precast.tools.gpucheck.stage import Report, Stage

_PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy")


class Result:
    """The results so far.

    Args:
        path: the result file.
        passed: directory for the content of passed stages, which later runs of other stages use.
        rehearsal: whether the run is a rehearsal, whose figures are meaningless.
    """

    def __init__(self, path: Path, passed: Path | None = None, *, rehearsal: bool = False) -> None:
        self._path = path
        self._passed = passed
        self._data: dict[str, Any] = {
            "benchmark": "gpu_check",
            "rehearsal": rehearsal,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": versions(*_PACKAGES),
            "rows": [],
            "stages": {},
        }

    def ended(self, stage: Stage, report: Report, seconds: float) -> None:
        """Record a stage that ran."""
        content = json.loads(json.dumps(report.content))
        if self._passed is not None and not report.failures:
            self._passed.mkdir(parents=True, exist_ok=True)
            (self._passed / f"{stage.name}.json").write_text(json.dumps(content), "utf-8")
        self._data["machine"] |= content.pop("machine", {})
        self._data["versions"] |= content.pop("versions", {})
        self._data["rows"] += rows_in(content)
        status = "failed" if report.failures else "passed"
        self._note(stage, seconds, status, {"checks": report.checks, "failures": report.failures, **content})

    def skipped(self, stage: Stage, reason: str, seconds: float) -> None:
        """Record a stage that was skipped."""
        self._note(stage, seconds, "skipped", {"reason": reason})

    def failed(self) -> list[str]:
        """Return the names of the stages that failed."""
        return [name for name, found in self._data["stages"].items() if found["status"] == "failed"]

    def summary(self) -> str:
        """Return one line for each stage, followed by the measured rows."""
        lines = []
        for name, found in self._data["stages"].items():
            why = (found.get("failures") or [found.get("reason", "")])[0]
            lines.append(
                f"{name:14} {found['status']:8} {found['seconds']:6.1f} s {found.get('checks', 0):6} checks  "
                f"{why[:150]}".rstrip()
            )
        for row in self._data["rows"]:
            aim = "" if row["met"] is None else f"  aim {row['aim']} {'met' if row['met'] else 'MISSED'}"
            floor = "" if row["times_floor"] is None else f"  {row['times_floor']}× the floor"
            lines.append(f"  {row['name']}: {row['measured']} {row['unit']}{aim}{floor}")
        return "\n".join(lines)

    def _note(self, stage: Stage, seconds: float, status: str, content: dict[str, Any]) -> None:
        found = {"status": status, "seconds": round(seconds, 1), "limit": stage.limit, **content}
        self._data["stages"][stage.name] = {"proves": stage.proves, **found}
        print(f"=== {stage.name} {status} after {seconds:.1f} s", flush=True)
        for failure in content.get("failures", [])[:10]:
            print(f"    {failure}", flush=True)
        self._write()

    def _write(self) -> None:
        """Replace the file atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text(json.dumps(self._data, indent=1) + "\n", "utf-8")
        partial.replace(self._path)


def rows_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Remove the speed rows from the content of a stage and its parts, and return them."""
    rows: list[dict[str, Any]] = list(content.pop("rows", []))
    for part in content.get("parts", {}).values():
        rows += part.pop("rows", [])
    return rows
