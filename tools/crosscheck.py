"""Lowering the graphs of every family for a CUDA device that is not here: ``make cross-check``.

It proves that every graph traces, that our kernels compile inside it and that one library comes out. It does
not prove that the graph runs, or runs fast: that is the GPU check's.
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
    """One family: what came of it."""

    family: str
    seconds: float
    libraries: int
    """One for each graph and variant."""
    library_kib: int
    kernels: int
    """Distinct Triton kernels inside each library, summed up."""
    error: str | None


CLASSIFIER = "bert, classify"
"""Besides every family with an embedding: a head whose size no tile divides."""
GENERATES = ", generate"
MODELS = (*SMALL, CLASSIFIER, *(f"{family}{GENERATES}" for family in SEQ2SEQ))


def check(family: str, cache: str) -> Row:
    """Write a small model of ``family`` and compile it, in a process of its own; never raises.

    Args:
        family: one of ``MODELS``.
        cache: a folder in which Inductor finds what is compiled already. It deletes some files once they are
            linked, so nobody else may use the folder meanwhile.
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
        except Exception as error:  # whatever went wrong is what the row is for
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
    """Each family in a fresh process: what one leaves behind in Inductor must not help the next.

    What is compiled by the same job before is found on disk.
    """
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
    only: Annotated[str | None, typer.Option(help="Rows, separated by semicolons.")] = None,
    jobs: Annotated[int, typer.Option(help="Families lowered side by side.")] = 2,
    save: Annotated[bool, typer.Option(help="Write benchmarks/results/cross_check.json.")] = True,
) -> None:
    """Lower all graphs of every family for sm_90, without a GPU."""
    if torch.version.cuda is None:
        raise SystemExit("expected a CUDA build of torch, found one for the cpu; run `make cross-check`")
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
