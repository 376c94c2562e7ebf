"""Cold and warm compile times of ``precast compile``, as a user runs it: ``benchmarks/results/compile.json``.

Each measurement is the wall-clock time of one fresh process. A cold one starts with empty caches of precast,
Inductor and Triton; a warm one repeats the same command with the caches that the cold one filled. The second
encoder-decoder shares the cache of the first, so it reuses graphs that do not depend on the model's weights.

The encoder-decoders have real shapes and random weights: compile time does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precast.tools.bench.generation_models import Shape, write_checkpoint
from precast.tools.bench.machine import machine, measured_rates
from precast.tools.bench.minilm import checkpoint
from precast.tools.bench.results import bar, write_result

NAME = "compile"
SHAPES = (Shape("T5-small random", "t5", 32_128), Shape("OPUS-MT random", "marian", 58_101))
"""The first and the second encoder-decoder, in the shapes of T5-small and OPUS-MT (Marian)."""
AIM_WARM_S = 6.0


@dataclass(frozen=True)
class Case:
    """One model to compile.

    Attributes:
        name: name in the result file.
        checkpoint: directory of the checkpoint.
        cache: name of the cache; cases with the same name share one.
        aim_s: aim for the first compilation, in seconds.
    """

    name: str
    checkpoint: Path
    cache: str
    aim_s: float


Runner = Callable[[Sequence[str], Mapping[str, str]], tuple[float, dict[str, Any]]]
"""Runs ``precast`` with arguments and extra environment variables; returns seconds and its JSON output."""


def cases(folder: Path) -> list[Case]:
    """Write the encoder-decoders into ``folder`` and return all cases in the order they must run."""
    first, second = (write_checkpoint(shape, folder / "models") for shape in SHAPES)
    return [
        Case("all-MiniLM-L6-v2", checkpoint(), "encoder", 20.0),
        Case("T5-small shape, first encoder-decoder", first, "encoder-decoder", 80.0),
        Case("OPUS-MT shape, second encoder-decoder", second, "encoder-decoder", 25.0),
    ]


def measure(models: Sequence[Case], folder: Path, runner: Runner) -> list[dict[str, Any]]:
    """Compile each model twice and return one row for each compilation.

    Args:
        models: the models, in order; the caches are emptied before the first one.
        folder: directory for caches and artifacts; both are replaced.
        runner: runs ``precast``.
    """
    for name in ("caches", "artifacts"):
        shutil.rmtree(folder / name, ignore_errors=True)
    rows = []
    for number, case in enumerate(models):
        artifact = folder / "artifacts" / f"{number}.precast"
        artifact.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["compile", str(case.checkpoint), "--output", str(artifact), "--overwrite", "--json"]
        for kind in ("first", "again"):
            seconds, report = runner(arguments, cache_environment(folder / "caches" / case.cache))
            rows.append(
                {
                    "model": case.name,
                    "compilation": kind,
                    "seconds": round(seconds, 2),
                    "step_seconds": {name: round(value, 2) for name, value in report["seconds"].items()},
                    "from_cache": report["from_cache"],
                }
            )
            print(f"{case.name}, {kind}: {seconds:.1f} s", flush=True)
    return rows


def cache_environment(cache: Path) -> dict[str, str]:
    """Return the environment variables that put all caches of a compilation into one directory."""
    return {
        "PRECAST_CACHE": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "HF_HUB_OFFLINE": "1",
    }


def bars(models: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one aim for each first compilation, and one for the slowest repeated compilation."""
    seconds = {(row["model"], row["compilation"]): row["seconds"] for row in rows}
    cold = [
        bar(f"compile {case.name}, s", case.aim_s, seconds[case.name, "first"], lower_is_better=True)
        for case in models
    ]
    warm = max(seconds[case.name, "again"] for case in models)
    return [*cold, bar("compile the same artifact again, slowest, s", AIM_WARM_S, warm, lower_is_better=True)]


def run_precast(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """Run the command line in a fresh process; return its wall-clock seconds and its JSON output.

    Raises:
        SystemExit: the command failed; carries the end of its error output.
    """
    command = [sys.executable, "-c", "from precast.tools.entry import main; main()", *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"precast {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seconds, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/compile"))
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/compile.json)")
    options = parser.parse_args()
    folder = options.folder.absolute()
    models = cases(folder)
    rows = measure(models, folder, run_precast)
    content = {"machine": machine() | measured_rates(), "rows": rows}
    print(f"wrote {write_result(NAME, content, options.output, bars=bars(models, rows))}")


if __name__ == "__main__":
    main()
