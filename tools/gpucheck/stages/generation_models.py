"""The models of stage ``generation_speed``, written, compiled and verified against Hugging Face."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import precast
from precast.tools.gpucheck.generation_shapes import TIMED, Timed, tiny, write
from precast.tools.gpucheck.stage import Report, Setting, Stage

PARTS = tuple(timed.name for timed in TIMED)


def timed_of(setting: Setting, name: str) -> Timed:
    """Return the model with a name, or a tiny one in a rehearsal."""
    (timed,) = (timed for timed in TIMED if timed.name == name)
    return tiny(timed) if setting.tiny else timed


def folder_of(setting: Setting, name: str) -> Path:
    """Return the directory of a model's checkpoint and artifact."""
    return setting.work / "timed" / name


def run(setting: Setting, part: str) -> Report:
    timed, folder, report = timed_of(setting, part), folder_of(setting, part), Report()
    started = time.perf_counter()
    write(timed, folder / "model", setting.device)
    written = time.perf_counter()
    backend: dict[str, Any] = {"backend": "reference"} if setting.device == "cpu" else {"autotune": False}
    manifest = precast.compile(
        folder / "model", folder / "model.precast", device=setting.device, dtype="bf16", overwrite=True,
        max_length=max(work.source[1] for work in timed.works),
        max_target_length=max(work.new_tokens for work in timed.works) + 1,
        max_num_seqs=max(work.num_seqs for work in timed.works), task="generate", **backend,
    )  # fmt: skip
    report.expect(manifest.parity is not None, "the compiler did not check parity")
    report.content = {
        "write_s": round(written - started, 1),
        "compile_s": round(time.perf_counter() - written, 1),
        "parity": manifest.parity.model_dump() if manifest.parity else None,
    }
    print(report.content)
    return report


STAGE = Stage(
    "generation_models",
    "the encoder-decoders that are timed compile and agree with Hugging Face",
    limit=295,
    run=run,
    parts=PARTS,
    after=("machine",),
    urgent=True,
)
