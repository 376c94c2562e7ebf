"""A stage of the GPU check, its setting and its report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


class Skip(Exception):
    """A stage cannot run on this machine, which is not a failure; the message says why."""


@dataclass(frozen=True)
class Setting:
    """The setting in which a stage runs.

    Attributes:
        work: directory shared by all stages; each writes under its own names.
        device: ``cuda``, or ``cpu`` in a rehearsal.
        tiny: whether to use the sizes of a rehearsal.
        earlier: contents of the stages that have passed, by name.
        kept: file that ``keep`` writes.
    """

    work: Path
    device: Literal["cuda", "cpu"] = "cuda"
    tiny: bool = False
    earlier: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: Path | None = None


@dataclass
class Report:
    """The report of a stage. A stage fails if there are failures, or no checks."""

    checks: int = 0
    content: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        """Count a check; if it does not hold, record and print the failure."""
        self.checks += 1
        if not true:
            self.failures.append(otherwise)
            print(f"FAILED: {otherwise}")


def keep(setting: Setting, report: Report) -> None:
    """Store the report so far; it is used if the process ends before the stage is done."""
    if setting.kept is not None:
        partial = setting.kept.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(report), default=plain), "utf-8")
        partial.replace(setting.kept)


def plain(value: Any) -> Any:
    """Convert a value for JSON: scalars of NumPy and torch to numbers, everything else to text."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclass(frozen=True)
class Stage:
    """A stage of the check.

    Attributes:
        name: name on the command line and in the result.
        proves: what the stage shows, in one line.
        limit: seconds from the start of its first part to the end of its last.
        run: function that runs one of ``parts``.
        parts: names of the parts; each runs in its own process, in parallel if the stage allows it.
        needs: stages, or parts as ``stage/part``, that must pass first.
        after: stages that run earlier if they run at all.
        alone: whether nothing else may run at the same time, as for every stage that measures times.
        urgent: whether other stages wait for it; it then gets CPU time before parallel stages.
    """

    name: str
    proves: str
    limit: float
    run: Callable[[Setting, str], Report]
    parts: tuple[str, ...] = ("all",)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    alone: bool = False
    urgent: bool = False

    @property
    def waits(self) -> set[str]:
        """Names of the stages that must end first."""
        return {name.partition("/")[0] for name in (*self.needs, *self.after)}


def worst_case(stages: Iterable[Stage]) -> float:
    """Return the total seconds if each stage runs to its limit.

    A stage that runs alone starts when all earlier ones have ended; others overlap, except with dependencies.
    """
    total = 0.0
    ends: dict[str, float] = {}
    for stage in stages:
        waits = [ends[name] for name in stage.waits if name in ends]
        begins = max(ends.values(), default=0.0) if stage.alone else max([total, *waits])
        ends[stage.name] = begins + stage.limit
        if stage.alone:
            total = ends[stage.name]
    return max(ends.values(), default=0.0)


def finished(name: str, reports: Mapping[str, Report]) -> Report:
    """Merge the reports of all parts; a stage without parts keeps its report."""
    if list(reports) == ["all"]:
        merged = reports["all"]
    else:
        merged = Report(content={"parts": {part: report.content for part, report in reports.items()}})
        for part, report in reports.items():
            merged.checks += report.checks
            merged.failures += [f"{part}: {failure}" for failure in report.failures]
    if not merged.checks and not merged.failures:
        merged.failures.append(f"stage {name} checked nothing")
    return merged
