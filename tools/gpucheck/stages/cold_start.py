"""Cold start: new processes from ``import torch`` to the first result, with all buckets captured."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precast.tools.gpucheck.engines import artifact
from precast.tools.gpucheck.rows import Row, rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage

AIM_S = 3.0
# Prints the wall-clock time after each phase, which is comparable with the time of the parent.
_PROGRAM = """
import json, sys, time
import torch
marks = {"import torch": time.time()}
import precast
engine = precast.load(sys.argv[1])
marks["load"] = time.time()
CALL
marks["first result"] = time.time()
stats = engine.stats()
captures = [[one.bucket, round(one.seconds, 4), one.bytes] for one in stats.captures]
engine.close()
print(json.dumps({"marks": marks, "captures": captures}))
"""


@dataclass(frozen=True)
class Sizes:
    rounds: int


FULL = Sizes(rounds=3)
TINY = Sizes(rounds=1)


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    rounds = [one_start(artifact(setting, "classify-bf16")) for _ in range(sizes.rounds)]
    captured = [len(one["captures"]) for one in rounds]
    report.expect(setting.device == "cpu" or min(captured) > 1, f"graphs captured: {captured}")
    after = statistics.median(one["after_import_s"] for one in rounds)
    whole = statistics.median(one["from_start_s"] for one in rounds)
    captures = rounds[-1]["captures"]
    row = Row(
        "BERT-base bf16, from import torch to the first result, all buckets captured",
        after,
        "s",
        aim=AIM_S,
        details={"from_process_start_s": rounded(whole), "load_s": [one["load_s"] for one in rounds]},
    )
    report.content = {
        "rows": [row.plain()],
        "captures": captures,
        "capture_seconds": rounded(sum(seconds for _, seconds, _ in captures)),
        "graph_bytes": sum(size for *_, size in captures),
    }
    print(report.content)
    return report


def one_start(path: Path, call: str = "engine.encode([[5, 6, 7]])") -> dict[str, Any]:
    """Return the seconds of each phase of a new process.

    Args:
        path: directory of the artifact.
        call: expression of the first call.

    Raises:
        RuntimeError: the process failed.
    """
    before, program = time.time(), _PROGRAM.replace("CALL", call)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the new process failed: {done.stderr[-1500:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    marks = found["marks"]
    return {
        "from_start_s": marks["first result"] - before,
        "after_import_s": marks["first result"] - marks["import torch"],
        "load_s": rounded(marks["load"] - marks["import torch"]),
        "captures": found["captures"],
    }


STAGE = Stage(
    "cold_start",
    "the time to the first result in a new process, and the time of graph capture",
    limit=30,
    run=run,
    needs=("compile/classify-bf16",),
    alone=True,
)
