"""A contender in a fresh process: its files are made there, and its start is timed there.

The parent sends a pickle to the standard input of ``python -m precast.tools.bench.fresh``; the child's last
line is JSON. The clock is the machine's, so that the parent's reading before the process began is on the same
scale.
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
"""What ends at each mark, in order; ``import torch`` is nothing for who does without."""
_REASON = 300


class FreshProcessError(Exception):
    """The process failed; says what its own error was."""


def prepare(contender: Contender) -> None:
    """Make the files of a contender.

    Raises:
        FreshProcessError: they cannot be made.
    """
    if contender.prepare is not None:
        _run(contender, None, 1)


def start(contender: Contender, work: Work, threads: int) -> dict[str, float]:
    """Seconds of each of ``PHASES``, from nothing to a first answer.

    Raises:
        FreshProcessError: it does not start, or does not answer.
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
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise FreshProcessError(said[-1][:_REASON] if said else f"it ended with status {done.returncode}")
    found: dict[str, float] = json.loads(lines[-1])
    return found


def _marks(contender: Contender, work: Work, threads: int) -> dict[str, float]:
    marks = {"interpreter": time.time()}
    if "torch" in contender.imports:
        importlib.import_module("torch")
    marks["import torch"] = time.time()
    for name in contender.imports:
        importlib.import_module(name)
    marks["import"] = time.time()
    ask = served(contender.make, threads)
    marks["load"] = time.time()
    ask(work)
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
    os._exit(0)  # how a contender shuts down is not asked


if __name__ == "__main__":
    main()
