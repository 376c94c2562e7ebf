"""Every kernel under compute-sanitizer: invalid memory accesses, and races in shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from precast.tools.gpucheck.cases import case
from precast.tools.gpucheck.rehearsal import repair_interpreter
from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage
from precast.tools.gpucheck.stages import kernels

PROGRAM = "compute-sanitizer"
TOOLS = ("memcheck", "racecheck")
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard")


@dataclass(frozen=True)
class Sizes:
    cases: int
    tokens: int
    seconds: float
    """Time limit of one tool."""


FULL = Sizes(cases=6, tokens=300, seconds=100)
TINY = Sizes(cases=2, tokens=30, seconds=60)


def run(setting: Setting, part: str) -> Report:
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/local/cuda/bin")
    if found is None:
        raise Skip(f"{PROGRAM} is not installed; it is part of the CUDA toolkit")
    sizes = TINY if setting.tiny else FULL
    return sanitize([found, "--tool", part, "--error-exitcode", "9"], part, sizes, setting.device)


def sanitize(command: list[str], tool: str, sizes: Sizes, device: str) -> Report:
    """Run the kernels under a tool; running out of time skips the part, as it shows nothing."""
    report, started = Report(), time.monotonic()
    cases = f"kernel_cases({sizes.cases}, {sizes.tokens}, {device!r})"
    program = f"from precast.tools.gpucheck.stages.sanitizer import kernel_cases; {cases}"
    # Without the caching allocator each tensor has an allocation whose bounds are checked.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", program],
            env=environment, capture_output=True, text=True, timeout=sizes.seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Skip(f"{tool} took more than {sizes.seconds:.0f} s") from None
    print(done.stdout[-3000:], done.stderr[-3000:])
    ran = re.search(r"ran (\d+) kernel cases", done.stdout)
    report.expect(ran is not None, f"{tool}: the kernels did not run to the end")
    summary = _SUMMARY.search(done.stdout + done.stderr)
    errors = int(summary[1] or summary[2]) if summary else -1
    report.expect(done.returncode == 0 and errors == 0, f"{tool}: {errors} errors, status {done.returncode}")
    report.content = {
        "cases": int(ran[1]) if ran else 0,
        "errors": errors,
        "seconds": round(time.monotonic() - started, 1),
    }
    return report


def kernel_cases(cases: int, tokens: int, device: str) -> None:
    """Run some cases of every kernel inside the sanitizer; exit with an error if an output is wrong."""
    repair_interpreter()
    for make_case in kernels.case_makers().values():
        sizes = case.Sizes(cases=cases, tokens=tokens, seconds=1e9)
        report = kernels.check(make_case, sizes, device, seed=99)
        if report.failures:
            sys.exit("\n".join(report.failures))
    print(f"ran {cases * len(kernels.case_makers())} kernel cases")


STAGE = Stage(
    "sanitizer",
    "no kernel accesses invalid memory or has races",
    limit=200,
    run=run,
    parts=TOOLS,
    after=("machine",),
)
