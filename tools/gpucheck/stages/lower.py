"""The graphs of BERT-base, lowered into the cache by parallel processes before stage ``compile``.

``precast.compile`` lowers the variants of one artifact in parallel, this stage those of several.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precast.compiler.compile_graphs import compile_variant
from precast.compiler.graph import variants
from precast.compiler.options import CompileOptions
from precast.compiler.pipeline import read_source
from precast.compiler.targets.registry import lowering_options, select_target
from precast.compiler.tasks.registry import TASKS
from precast.graphs.encode import Dtype, Task
from precast.tools.gpucheck.engines import checkpoint
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.models import write_bert_base

MAX_TOKENS = 16_384
"""Tokens of a packed batch, enough for 32 inputs of 384 tokens."""
TINY_BERT: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Build:
    """An artifact of BERT-base."""

    name: str
    task: Task
    dtype: Dtype
    autotune: bool

    def options(self, setting: Setting, **changes: Any) -> CompileOptions:
        """Return the options of its compilation."""
        on_cpu = setting.device == "cpu"
        return CompileOptions(
            model=str(checkpoint(setting)),
            output=setting.work / "artifacts" / f"{self.name}.precast",
            task=self.task,
            device=setting.device,
            dtype="fp32" if on_cpu and self.dtype == "fp16" else self.dtype,
            backend="reference" if on_cpu else "inductor",
            autotune=self.autotune,
            max_tokens=512 if setting.tiny else MAX_TOKENS,
            overwrite=True,
            **changes,
        )


TUNED = (Build("classify-bf16", "classify", "bf16", True), Build("embed-bf16", "embed", "bf16", True))
UNTUNED = (
    Build("classify-bf16-untuned", "classify", "bf16", False),
    Build("classify-fp16-untuned", "classify", "fp16", False),
)
PARTS = ("tuned-0", "tuned-1", "tuned-2", "untuned")


@dataclass
class Lowering:
    """Seconds of one part, by build."""

    seconds: dict[str, float] = field(default_factory=dict)


def run(setting: Setting, part: str) -> Report:
    write_model(setting)
    report, done = Report(), Lowering()
    kind, _, number = part.partition("-")
    for build in TUNED if kind == "tuned" else UNTUNED:
        started = time.perf_counter()
        report.checks += lower(setting, build, int(number) if number else None)
        done.seconds[build.name] = round(time.perf_counter() - started, 1)
        mark(setting, build.name, part).touch()
        print(f"{build.name} lowered in {done.seconds[build.name]} s")
    report.content = {"lowering_seconds": done.seconds}
    return report


def lower(setting: Setting, build: Build, variant: int | None) -> int:
    """Lower a build's graph into the cache, all variants or the one at an index; return how many."""
    options = build.options(setting)
    source, target = read_source(options), select_target(options)
    (spec,) = TASKS[source.task].build(source, target, options).graphs
    backend = target.backend(lowering_options(options))
    found = variants(spec, backend)
    selected = found if variant is None else found[variant : variant + 1]
    for each in selected:
        compile_variant(each, backend)
    return len(selected)


def mark(setting: Setting, build: str, part: str) -> Path:
    """Return the file that marks a graph as lowered, so that stage ``compile`` need not autotune it."""
    folder = setting.work / "lowered"
    folder.mkdir(exist_ok=True)
    return folder / f"{build}.{part}"


def is_lowered(setting: Setting, build: Build) -> bool:
    """Return whether all graphs of a build are in the cache."""
    parts = [part for part in PARTS if part.startswith("tuned")] if build.autotune else ["untuned"]
    return all(mark(setting, build.name, part).is_file() for part in parts)


def write_model(setting: Setting) -> None:
    """Write BERT-base unless another part has written it."""
    target = checkpoint(setting)
    if (target / "config.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent))
    write_bert_base(made, **(TINY_BERT if setting.tiny else {}))
    try:
        made.rename(target)
    except OSError:  # another part has written the same model
        shutil.rmtree(made)


STAGE = Stage(
    "lower",
    "the graphs of BERT-base lower in parallel, with autotuned matrix multiplications",
    limit=160,
    run=run,
    parts=PARTS,
    urgent=True,
    after=("machine",),
)
