"""The runner of stages: dependencies, parallel parts, time limits, and the result after each stage."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from precast.tools.gpucheck.process import PartProcess
from precast.tools.gpucheck.result import Result
from precast.tools.gpucheck.stage import Report, Setting, Stage, finished

_POLL_S = 0.05


@dataclass
class _Progress:
    """The state of a stage."""

    waiting: list[str]
    began: float | None = None
    running: list[PartProcess] = field(default_factory=list)
    reports: dict[str, Report] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Runner:
    """Runs stages in order, in parallel where they allow it.

    Args:
        stages: stages to run.
        setting: setting of all stages; ``earlier`` holds results of stages that are not run again.
        result: records each stage that ends.
        where: the tuple of all stages, ``module:tuple``, for child processes.
        jobs: maximum number of parallel processes.
        budget: total time in seconds; stages that have not started by then fail.
        environment: environment variables of the child processes.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        setting: Setting,
        result: Result,
        *,
        where: str,
        jobs: int,
        budget: float,
        environment: Mapping[str, str],
    ) -> None:
        self._stages = stages
        self._setting = setting
        self._result = result
        self._where = where
        self._jobs = jobs
        self._budget = budget
        self._environment = environment
        self._progress = {stage.name: _Progress(list(stage.parts)) for stage in stages}
        self._passed: dict[str, Mapping[str, Any]] = dict(setting.earlier)
        self._good = {*setting.earlier, *stored_parts(setting.earlier)}
        self._ended: set[str] = set()
        self._started = time.monotonic()

    def run(self) -> bool:
        """Run all stages; return whether none failed."""
        try:
            while len(self._ended) < len(self._stages):
                for stage in self._stages:
                    if stage.name not in self._ended:
                        self._advance(stage)
                time.sleep(_POLL_S)
        finally:
            for progress in self._progress.values():
                for process in progress.running:
                    process.end()
        return not self._result.failed()

    def _advance(self, stage: Stage) -> None:
        """Collect the parts that ended, end those over their limit, and start those that may start."""
        progress = self._progress[stage.name]
        now = time.monotonic()
        left = self._started + self._budget - now
        late = left <= 0 or (progress.began is not None and now - progress.began > stage.limit)
        for process in [one for one in progress.running if late or not one.running()]:
            ended_for = (now - (progress.began or now)) if process.running() else None
            if ended_for is not None:
                process.end()
            self._collect(progress, process, process.report(ended_for))
        if late:
            for part in progress.waiting:
                progress.reports[part] = Report(failures=["not started: no time left"])
            progress.waiting.clear()
        elif (missing := self._missing(stage)) is not None:
            progress.waiting.clear()
            progress.reports["all"] = Report(failures=[missing])
        elif self._may_run(stage):
            self._start(stage, progress, now)
        if not progress.waiting and not progress.running:
            self._finish(stage, progress)

    def _start(self, stage: Stage, progress: _Progress, now: float) -> None:
        room = 1 if stage.alone else self._jobs - sum(len(one.running) for one in self._progress.values())
        while progress.waiting and room > len(progress.running) * stage.alone:
            if progress.began is None:
                progress.began = now
                print(f"=== {stage.name}: {stage.proves} (at most {stage.limit:.0f} s)", flush=True)
            setting = replace(self._setting, earlier=self._passed)
            environment = {**self._environment, **threads_of(stage)}
            progress.running.append(
                PartProcess(stage, progress.waiting.pop(0), setting, self._where, environment)
            )
            room -= 1

    def _missing(self, stage: Stage) -> str | None:
        """Return why a stage can never run: a stage that it needs did not pass."""
        for name in stage.needs:
            stage_name = name.partition("/")[0]
            may_come = stage_name in self._progress and stage_name not in self._ended
            if name not in self._good and not may_come:
                return f"needs {name}, which did not pass"
        return None

    def _may_run(self, stage: Stage) -> bool:
        waits = set(stage.waits)
        before = self._stages[: list(self._stages).index(stage)]
        if stage.alone or any(other.alone for other in before):
            last = max((at for at, other in enumerate(before) if other.alone), default=-1)
            waits |= {other.name for other in (before if stage.alone else before[: last + 1])}
        return all(name in self._ended or name not in self._progress for name in waits)

    def _collect(self, progress: _Progress, process: PartProcess, found: Report | str) -> None:
        progress.running.remove(process)
        progress.seconds[process.part] = process.seconds
        if isinstance(found, str):
            progress.skipped.append(found)
        else:
            progress.reports[process.part] = found

    def _finish(self, stage: Stage, progress: _Progress) -> None:
        self._ended.add(stage.name)
        seconds = 0.0 if progress.began is None else time.monotonic() - progress.began
        if progress.skipped and not progress.reports:
            self._result.skipped(stage, progress.skipped[0], seconds)
            return
        self._good |= {f"{stage.name}/{part}" for part, one in progress.reports.items() if not one.failures}
        # In the order of the stage's parts, not in which they ended.
        ordered = {part: progress.reports[part] for part in (*stage.parts, "all") if part in progress.reports}
        report = finished(stage.name, ordered)
        if progress.skipped:
            report.content["skipped"] = progress.skipped
        if len(progress.seconds) > 1:
            report.content["part_seconds"] = progress.seconds
        if not report.failures:
            self._good.add(stage.name)
            self._passed[stage.name] = report.content
        self._result.ended(stage, report, seconds)


def stored_parts(earlier: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return ``stage/part`` for all parts of stages that passed in earlier runs."""
    return {f"{name}/{part}" for name, content in earlier.items() for part in content.get("parts", {})}


def threads_of(stage: Stage) -> dict[str, str]:
    """Return the thread limits of a stage's processes; autotuning compiles many kernels in parallel."""
    if stage.alone:
        return {}
    compiling = "6" if stage.urgent else "2"
    return {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": compiling}


def jobs_here() -> int:
    """Return the default number of parallel processes; one core is left for their other threads."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
