"""Processes that compile graphs: ``python -m precast.compiler.worker`` reads jobs from standard input.

They are not started with ``multiprocessing``, which would import the user's main module. A job is passed as a
file, since its weights may be large.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import torch
from torch import nn

from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import CompiledFile
from precast.compiler.targets.registry import get_target
from precast.compiler.targets.target import LoweringOptions
from precast.graphs.signature import Signature


@dataclass(frozen=True)
class CompileJob:
    """A graph, and how to compile it."""

    target: str
    options: LoweringOptions
    module: nn.Module
    signature: Signature
    size: int

    def compile(self, folder: Path) -> CompiledFile:
        """Compile the graph into ``folder``.

        Raises:
            LoweringError: the graph cannot be compiled.
        """
        backend = get_target(self.target).backend(self.options)
        return backend.compile(self.module, self.signature, self.size, folder)


class WorkerPool:
    """Processes that compile jobs. As many threads as there are processes may call ``run``.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self._workers = [_start() for _ in range(size)]
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def run(self, job: CompileJob, folder: Path) -> CompiledFile:
        """Compile a job into ``folder`` in an idle process.

        Raises:
            LoweringError: the graph cannot be compiled, or the process ended.
        """
        worker = self._idle.get()
        try:
            return _ask(worker, job, folder)
        finally:
            self._idle.put(worker)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if error is not None:
                worker.kill()
            worker.communicate()


def _start() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "precast.compiler.worker"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _ask(worker: subprocess.Popen[str], job: CompileJob, folder: Path) -> CompiledFile:
    assert worker.stdin is not None and worker.stdout is not None
    with tempfile.NamedTemporaryFile(dir=folder.parent, suffix=".job") as file:
        torch.save(job, file.name)
        try:
            worker.stdin.write(json.dumps({"job": file.name, "folder": str(folder)}) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except OSError:
            line = ""
    if not line:
        raise LoweringError(
            f"the process compiling {job.signature.graph} ended with status {worker.wait()}; it may have "
            f"run out of memory"
        )
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        raise LoweringError(reply["error"])
    return CompiledFile(folder / reply["file"], reply["weights"], tuple(reply["constants"]), reply["choices"])


def _reply(request: Mapping[str, str]) -> dict[str, Any]:
    try:
        # The parent wrote the file, into a folder of the user's cache.
        job: CompileJob = torch.load(request["job"], weights_only=False, mmap=True)
        with torch.no_grad():
            compiled = job.compile(Path(request["folder"]))
    except LoweringError as error:
        return {"error": str(error)}
    except Exception as error:  # reported by the parent
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "file": compiled.path.name,
        "weights": compiled.weights,
        "constants": compiled.constants,
        "choices": dict(compiled.choices),
    }


def main() -> None:
    """Compile the jobs named on standard input until it ends."""
    # Only replies go to standard output; the output of compilers goes to standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # Torch warns of its own deprecated functions when it pickles and traces.
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        replies.write(json.dumps(_reply(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
