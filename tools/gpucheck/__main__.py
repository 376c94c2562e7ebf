"""``python -m precast.tools.gpucheck``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from precast.tools.bench.results import FOLDER
from precast.tools.gpucheck.result import Result
from precast.tools.gpucheck.runner import Runner, jobs_here
from precast.tools.gpucheck.stage import Setting, Stage, worst_case
from precast.tools.gpucheck.stages import GENERATION, STAGES

BUDGET_S = 540.0
_MODULE = "precast.tools.gpucheck.stages"


@dataclass(frozen=True)
class Suite:
    """Stages that run together, where a child finds them, and the name of their result."""

    stages: tuple[Stage, ...]
    where: str
    result: str


SUITES = {
    "encoders": Suite(STAGES, f"{_MODULE}:STAGES", "gpu_check.json"),
    "generation": Suite(GENERATION, f"{_MODULE}:GENERATION", "gpu_check_generation.json"),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m precast.tools.gpucheck", description=__doc__)
    parser.add_argument("--suite", choices=list(SUITES), default="encoders", help="what is checked")
    parser.add_argument("--list", action="store_true", help="say what the stages are and end")
    parser.add_argument("--only", type=_names, help="these stages, and what they build on")
    parser.add_argument("--skip", type=_names, default=(), help="all but these stages")
    parser.add_argument("--output", type=Path, help="the result; benchmarks/results/gpu_check*.json")
    parser.add_argument("--work", type=Path, help="where models and compiled graphs are kept")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for everything")
    parser.add_argument("--jobs", type=int, default=jobs_here(), help="processes side by side")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU; proves no figure")
    return parser.parse_args(arguments)


def chosen(
    stages: Sequence[Stage], only: Sequence[str] | None, skip: Sequence[str], stored: Sequence[str] = ()
) -> list[Stage]:
    """The stages to run, in their order: those asked for, and those before them that nobody stored.

    Raises:
        SystemExit: there is no such stage.
    """
    by_name = {stage.name: stage for stage in stages}
    unknown = [name for name in (*(only or ()), *skip) if name not in by_name]
    if unknown:
        raise SystemExit(f"no stage {', '.join(unknown)}; there are {', '.join(by_name)}")
    wanted: set[str] = set()
    waiting = list(only if only is not None else by_name)
    while waiting:
        name = waiting.pop()
        if name not in wanted and name not in skip:
            wanted.add(name)
            waiting += sorted(by_name[name].waits - set(stored))
    return [stage for stage in stages if stage.name in wanted]


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """What stages of earlier runs in the same work folder found, those that passed."""
    return {one.stem: json.loads(one.read_text("utf-8")) for one in sorted(path.glob("*.json"))}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = options(arguments)
    suite = SUITES[asked.suite]
    if asked.list:
        for stage in suite.stages:
            beside = "alone" if stage.alone else "beside others"
            print(f"{stage.name:14} {stage.limit:4.0f} s  {beside:13}  {stage.proves}")
        print(f"at most {worst_case(suite.stages):.0f} s")
        return 0
    if not asked.rehearse and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, torch sees none; --rehearse runs the same code on the CPU")
    work = (asked.work or Path(tempfile.mkdtemp(prefix="precast-gpucheck-"))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    passed = work / "passed"
    earlier = stored(passed) if asked.only else {}
    stages = chosen(suite.stages, asked.only, asked.skip, list(earlier))
    whole = not asked.rehearse and len(stages) == len(suite.stages)
    output = asked.output or (FOLDER / suite.result if whole else work / "result.json")
    result = Result(output, passed, rehearsal=asked.rehearse)
    runner = Runner(
        stages,
        Setting(work, "cpu" if asked.rehearse else "cuda", tiny=asked.rehearse, earlier=earlier),
        result,
        where=suite.where,
        jobs=asked.jobs,
        budget=asked.budget,
        environment=environment(work, rehearse=asked.rehearse),
    )
    signal.signal(signal.SIGTERM, _stop)
    passed = runner.run()
    print(f"{result.summary()}\nwrote {output}", flush=True)
    return 0 if passed else 1


def environment(work: Path, *, rehearse: bool) -> dict[str, str]:
    """All caches lie in the work folder: what one stage compiles, the next finds."""
    found = {
        "PRECAST_CACHE": str(work / "cache"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
    }
    return found | ({"TRITON_INTERPRET": "1"} if rehearse else {})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _stop(*_: object) -> NoReturn:
    """So that what was started is ended on the way out."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
