"""Lowering the graphs of every family for CUDA on a machine without a GPU: ``make cross-check``.

It shows that every graph traces, that precast's kernels compile in it and that one library is built. Whether
the graph runs, and how fast, is up to the GPU check.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

import precast
from precast.graphs.encode import Task
from precast.tools.bench.results import write_result
from precast.tools.models import SEQ2SEQ, SMALL, write_bert_base, write_small, write_small_seq2seq

ARCHITECTURE = "sm_90"


@dataclass(frozen=True)
class Row:
    """The result for one model."""

    family: str
    seconds: float
    libraries: int
    """Number of libraries: one for each graph and variant."""
    library_kib: int
    kernels: int
    """Sum over all libraries of their distinct Triton kernels."""
    error: str | None


CLASSIFIER = "bert, classify"
"""A model with a classification head, whose size no tile divides."""
GENERATES = ", generate"
MODELS = (*SMALL, CLASSIFIER, *(f"{family}{GENERATES}" for family in SEQ2SEQ))


def check(family: str, cache: str) -> Row:
    """Write a small model and compile it; an exception becomes the ``error`` of the result.

    Args:
        family: one of ``MODELS``.
        cache: directory of Inductor's cache. Inductor deletes some files after linking, so no other process
            may use the directory at the same time.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.precast")
        started = time.perf_counter()
        try:
            checkpoint, task = _model(family, Path(folder, "model"))
            started = time.perf_counter()
            precast.compile(
                checkpoint, output, device=f"cuda:{ARCHITECTURE}", dtype="bf16", verify=False, task=task
            )
        except Exception as error:  # any failure is a result
            return Row(
                family, time.perf_counter() - started, 0, 0, 0, f"{type(error).__name__}: {error}"[:2000]
            )
        libraries = [path.read_bytes() for path in (output / "graphs").glob("*.so")]
        kernels = [set(re.findall(rb"__(\w+?)_start\0", library)) for library in libraries]
        size = sum(map(len, libraries)) >> 10
        return Row(family, time.perf_counter() - started, len(libraries), size, sum(map(len, kernels)), None)


def _model(name: str, folder: Path) -> tuple[Path, Task]:
    if name.endswith(GENERATES):
        return write_small_seq2seq(name.removesuffix(GENERATES), folder), "generate"
    if name != CLASSIFIER:
        return write_small(name, folder), "embed"
    small = {"vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return write_bert_base(folder, labels=3, tokenizer=False, **small), "classify"


def run(families: list[str], jobs: int) -> list[Row]:
    """Check each model in a new process, so that no state of Inductor carries over."""
    rows = []
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(jobs) as threads:
        folders: SimpleQueue[str] = SimpleQueue()
        for job in range(jobs):
            folders.put(str(Path(work, str(job))))

        def checked(family: str) -> Row:
            folder = folders.get()
            with get_context("spawn").Pool(1) as process:
                row = process.apply(check, (family, folder))
            folders.put(folder)
            return row

        for row in threads.map(checked, families):
            print(f"{row.family:26} {row.seconds:6.1f} s  {row.error or 'lowered'}", flush=True)
            rows.append(row)
    return rows


def main(
    only: Annotated[str | None, typer.Option(help="Models, separated by semicolons.")] = None,
    jobs: Annotated[int, typer.Option(help="Models lowered in parallel.")] = 2,
    save: Annotated[bool, typer.Option(help="Write benchmarks/results/cross_check.json.")] = True,
) -> None:
    """Lower all graphs of every family for sm_90, without a GPU."""
    if torch.version.cuda is None:
        raise SystemExit("expected a CUDA build of torch, found a CPU build; run `make cross-check`")
    families = only.split(";") if only else list(MODELS)
    started = time.perf_counter()
    rows = run(families, jobs)
    seconds = time.perf_counter() - started
    table = Table(f"family, {ARCHITECTURE}", "seconds", "libraries", "KiB", "Triton kernels", "")
    for row in rows:
        outcome = "[red]failed" if row.error else "lowered"
        numbers = (f"{row.seconds:.1f}", *map(str, (row.libraries, row.library_kib, row.kernels)))
        table.add_row(row.family, *numbers, outcome)
    Console().print(table, f"{len(rows)} families in {seconds:.0f} s")
    failed = [row.family for row in rows if row.error]
    if save and not only and not failed:
        content = {"architecture": ARCHITECTURE, "seconds": round(seconds, 1), "jobs": jobs}
        write_result("cross_check", content | {"rows": [asdict(row) for row in rows]})
    sys.exit(f"not lowered: {', '.join(failed)}" if failed or not rows else 0)


if __name__ == "__main__":
    typer.run(main)
