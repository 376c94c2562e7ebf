"""Process start to first embedding, beside sentence-transformers, each in fresh processes, in turns."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from precast.tools.bench.minilm import artifact, checkpoint
from precast.tools.bench.results import write_result

# Each prints, as JSON, the clock after every phase; the clock is the machine's, so that the parent's
# reading before the process started is on the same scale.
_PRECAST = """
import json, sys, time
import torch
marks = {"import torch": time.time()}
import precast
engine = precast.load(sys.argv[1])
marks["load"] = time.time()
engine.embed("Cast ahead of time, assembled on site.")
marks["first embedding"] = time.time()
print(json.dumps(marks))
"""
_SENTENCE_TRANSFORMERS = """
import json, sys, time
import torch
marks = {"import torch": time.time()}
from sentence_transformers import SentenceTransformer
engine = SentenceTransformer(sys.argv[1], device="cpu")
marks["load"] = time.time()
engine.encode("Cast ahead of time, assembled on site.")
marks["first embedding"] = time.time()
print(json.dumps(marks))
"""


def phases(script: str, argument: Path) -> dict[str, float]:
    """Seconds of each phase of one fresh process."""
    before = time.time()
    done = subprocess.run(
        [sys.executable, "-c", script, str(argument)], check=True, capture_output=True, text=True
    )
    marks = json.loads(done.stdout.splitlines()[-1])
    seconds = {}
    for phase, moment in marks.items():
        seconds[phase] = moment - before
        before = moment
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    contenders = {
        "precast bf16": (_PRECAST, artifact(options.artifacts, "bf16")),
        "precast fp32": (_PRECAST, artifact(options.artifacts, "fp32")),
        "sentence-transformers": (_SENTENCE_TRANSFORMERS, checkpoint()),
    }
    for script, argument in contenders.values():
        phases(script, argument)  # once before counting, so that all files are in memory
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, (script, argument) in contenders.items():
            taken[name].append(phases(script, argument))
    rows = [_row(name, runs) for name, runs in taken.items()]
    slowest = next(row for row in rows if row["contender"] == "sentence-transformers")
    for row in rows:
        row["times_sentence_transformers"] = round(
            slowest["after_import_torch_s"] / row["after_import_torch_s"], 1
        )
    path = write_result("cold_start", {"model": "all-MiniLM-L6-v2", "rounds": options.rounds, "rows": rows})
    print(f"wrote {path.name}")


def _row(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    medians = {phase: statistics.median(run[phase] for run in runs) for phase in runs[0]}
    return {
        "contender": name,
        "phases_s": {phase: round(value, 3) for phase, value in medians.items()},
        "after_import_torch_s": round(medians["load"] + medians["first embedding"], 3),
        "total_s": round(statistics.median(sum(run.values()) for run in runs), 3),
    }


if __name__ == "__main__":
    main()
