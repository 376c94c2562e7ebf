"""Cold start of generation: new processes from ``import torch`` to the first tokens."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from precast.tools.gpucheck.rows import Row, rounded
from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage
from precast.tools.gpucheck.stages.cold_start import one_start
from precast.tools.gpucheck.stages.generation_models import folder_of

MODEL = "T5-base"
AIM_S = 4.0


@dataclass(frozen=True)
class Sizes:
    rounds: int


FULL = Sizes(rounds=3)
TINY = Sizes(rounds=1)


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    artifact = folder_of(setting, MODEL) / "model.precast"
    if not artifact.is_dir():
        raise Skip(f"{MODEL} was not compiled")
    call = "engine.generate([[5, 6, 7]], max_new_tokens=2)"
    rounds = [one_start(artifact, call) for _ in range(sizes.rounds)]
    captured = [len(one["captures"]) for one in rounds]
    report.expect(setting.device == "cpu" or min(captured) > 1, f"graphs captured: {captured}")
    row = Row(
        f"{MODEL} bf16, from import torch to the first tokens, all buckets captured",
        statistics.median(one["after_import_s"] for one in rounds),
        "s",
        aim=AIM_S,
        details={
            "from_process_start_s": rounded(statistics.median(one["from_start_s"] for one in rounds)),
            "load_s": [one["load_s"] for one in rounds],
        },
    )
    report.content = {"rows": [row.plain()], "captures": rounds[-1]["captures"]}
    print(report.content)
    return report


STAGE = Stage(
    "generation_start",
    "the time to the first tokens in a new process",
    limit=30,
    run=run,
    after=("generation_models",),
    alone=True,
)
