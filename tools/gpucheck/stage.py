"""What a stage of the check is, what it is given and what it hands back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped"]


class Skip(Exception):
    """This stage cannot run here, which is no failure; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What a stage is given.

    Attributes:
        work: a folder that all stages share; each writes under names of its own.
        device: ``cpu`` in a rehearsal alone.
        tiny: sizes of a rehearsal.
        earlier: contents of the stages that passed so far, by name.
        kept: the file of ``keep``.
    """

    work: Path
    device: Literal["cuda", "cpu"] = "cuda"
    tiny: bool = False
    earlier: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: Path | None = None


@dataclass
class Report:
    """What a stage hands back. One with a failure has failed, and so has one without a check."""

    checks: int = 0
    content: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def expect(self, true: bool, otherwise: str) -> None:
        """Count a check; note and print what is wrong where it does not hold."""
        self.checks += 1
        if not true:
            self.failures.append(otherwise)
            print(f"FAILED: {otherwise}")


def keep(setting: Setting, report: Report) -> None:
    """Store what was found so far: it stands in the result even if the process ends before it is done."""
    if setting.kept is not None:
        partial = setting.kept.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(report), default=plain), "utf-8")
        partial.replace(setting.kept)


def plain(value: Any) -> Any:
    """For JSON: numbers of numpy and torch as numbers, all else by its name."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclass(frozen=True)
class Stage:
    """A row of the check.

    Attributes:
        name: in the command line and in the result.
        proves: one line.
        limit: seconds from the start of its first part to the end of its last.
        run: the stage, given one of ``parts``.
        parts: each runs in a process of its own, side by side with others where the stage allows it.
        needs: stages, or parts of them as ``stage/part``, without which it cannot run.
        after: stages that come first where they are run at all.
        alone: whether nothing else may run meanwhile: everything that takes times.
        urgent: whether others wait for it, so that it gets processors before those beside it.
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
        """Stages that it does not begin before."""
        return {name.partition("/")[0] for name in (*self.needs, *self.after)}


def worst_case(stages: Iterable[Stage]) -> float:
    """Seconds that the stages may take together if each runs to its limit.

    A stage that is alone begins when all before it ended; the others overlap, but for what they wait for.
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
    """The reports of all parts as one; a stage in one part stays as it is."""
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
