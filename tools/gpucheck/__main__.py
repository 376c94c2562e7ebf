"""The command line of the GPU check: ``python -m precast.tools.gpucheck``."""

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
    """Stages that run together, their location for child processes, and the name of their result file."""

    stages: tuple[Stage, ...]
    where: str
    result: str


SUITES = {
    "encoders": Suite(STAGES, f"{_MODULE}:STAGES", "gpu_check.json"),
    "generation": Suite(GENERATION, f"{_MODULE}:GENERATION", "gpu_check_generation.json"),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m precast.tools.gpucheck", description=__doc__)
    parser.add_argument("--suite", choices=list(SUITES), default="encoders", help="the stages to check")
    parser.add_argument("--list", action="store_true", help="list the stages and exit")
    parser.add_argument("--only", type=_names, help="run these stages and those they depend on")
    parser.add_argument("--skip", type=_names, default=(), help="run all but these stages")
    parser.add_argument(
        "--output", type=Path, help="result file (default: benchmarks/results/gpu_check*.json)"
    )
    parser.add_argument("--work", type=Path, help="directory for models and compiled graphs")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="total time in seconds")
    parser.add_argument("--jobs", type=int, default=jobs_here(), help="parallel processes")
    parser.add_argument(
        "--rehearse", action="store_true", help="run with tiny sizes on the CPU; figures are meaningless"
    )
    return parser.parse_args(arguments)


def select_stages(
    stages: Sequence[Stage], only: Sequence[str] | None, skip: Sequence[str], stored: Sequence[str] = ()
) -> list[Stage]:
    """Return the stages to run, in order: the selected ones, and their dependencies without a stored result.

    Raises:
        SystemExit: a stage does not exist.
    """
    by_name = {stage.name: stage for stage in stages}
    unknown = [name for name in (*(only or ()), *skip) if name not in by_name]
    if unknown:
        raise SystemExit(f"stages must be among {', '.join(by_name)}; found {', '.join(unknown)}")
    wanted: set[str] = set()
    waiting = list(only if only is not None else by_name)
    while waiting:
        name = waiting.pop()
        if name not in wanted and name not in skip:
            wanted.add(name)
            waiting += sorted(by_name[name].waits - set(stored))
    return [stage for stage in stages if stage.name in wanted]


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """Return the results of the stages that passed in earlier runs with the same work directory."""
    return {one.stem: json.loads(one.read_text("utf-8")) for one in sorted(path.glob("*.json"))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and return the exit status."""
    asked = options(arguments)
    suite = SUITES[asked.suite]
    if asked.list:
        for stage in suite.stages:
            mode = "alone" if stage.alone else "in parallel"
            print(f"{stage.name:14} {stage.limit:4.0f} s  {mode:13}  {stage.proves}")
        print(f"at most {worst_case(suite.stages):.0f} s")
        return 0
    if not asked.rehearse and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, found none; --rehearse runs the same code on the CPU")
    work = (asked.work or Path(tempfile.mkdtemp(prefix="precast-gpucheck-"))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    passed = work / "passed"
    earlier = stored(passed) if asked.only else {}
    stages = select_stages(suite.stages, asked.only, asked.skip, list(earlier))
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
    """Return the environment variables that put all caches into the work directory, shared by the stages."""
    variables = {
        "PRECAST_CACHE": str(work / "cache"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
    }
    return variables | ({"TRITON_INTERPRET": "1"} if rehearse else {})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _stop(*_: object) -> NoReturn:
    """Exit through the ``finally`` blocks that end child processes."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
