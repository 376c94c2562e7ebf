"""A contender in a new process, which prepares its files or times its cold start.

The parent sends a pickle to the standard input of ``python -m precast.tools.bench.fresh``; the last line of
the child's output is JSON. Both use the wall clock, so the parent's time before the process starts is
comparable.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import time
from typing import Any

from precast.tools.bench.peers.contender import Contender
from precast.tools.bench.peers.work import Work, served

PHASES = ("interpreter", "import torch", "import", "load", "first result")
"""Phases of a cold start, in order; ``import torch`` takes no time for contenders that do without torch."""
_MAX_REASON = 300


class FreshProcessError(Exception):
    """The process failed; the message is its own error."""


def prepare(contender: Contender) -> None:
    """Prepare the files of a contender, such as a converted model.

    Raises:
        FreshProcessError: the preparation failed.
    """
    if contender.prepare is not None:
        _run(contender, None, 1)


def start(contender: Contender, work: Work, threads: int) -> dict[str, float]:
    """Return the seconds of each of ``PHASES``, from starting a process to the first result.

    Raises:
        FreshProcessError: the contender does not start, or fails.
    """
    before = time.time()
    marks = _run(contender, work, threads)
    seconds = {}
    for phase in PHASES:
        seconds[phase] = marks[phase] - before
        before = marks[phase]
    return seconds


def _run(contender: Contender, work: Work | None, threads: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "precast.tools.bench.fresh"],
        input=pickle.dumps((contender, work, threads)),
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or not lines:
        errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = errors[-1][:_MAX_REASON] if errors else f"it exited with status {done.returncode}"
        raise FreshProcessError(reason)
    marks: dict[str, float] = json.loads(lines[-1])
    return marks


def _marks(contender: Contender, work: Work, threads: int) -> dict[str, float]:
    marks = {"interpreter": time.time()}
    if "torch" in contender.imports:
        importlib.import_module("torch")
    marks["import torch"] = time.time()
    for name in contender.imports:
        importlib.import_module(name)
    marks["import"] = time.time()
    run = served(contender.make, threads)
    marks["load"] = time.time()
    run(work)
    marks["first result"] = time.time()
    return marks


def main() -> None:
    contender, work, threads = pickle.load(sys.stdin.buffer)
    marks: dict[str, Any] = {}
    if work is None:
        contender.prepare()
    else:
        marks = _marks(contender, work, threads)
    sys.stdout.write("\n" + json.dumps(marks) + "\n")
    sys.stdout.flush()
    os._exit(0)  # shutting down is not part of a cold start


if __name__ == "__main__":
    main()
