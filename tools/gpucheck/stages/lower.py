"""The graphs of BERT-base, lowered ahead of stage ``compile``: each in a process of its own, into the cache.

One after the other, as ``precast.compile`` does it, they would take most of the time that there is.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precast.compiler.cache import cached_lower
from precast.compiler.graph import lowering_sizes
from precast.compiler.lowering.choice import select_backend
from precast.compiler.options import CompileOptions
from precast.compiler.pipeline import open_model, read_model
from precast.compiler.work import Work
from precast.graphs.encode import Dtype, Task
from precast.tools.gpucheck.engines import checkpoint
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.models import write_bert_base

MAX_TOKENS = 16_384
"""Of a packed batch: 32 inputs of 384 tokens fit one."""
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
    """One artifact of BERT-base."""

    name: str
    task: Task
    dtype: Dtype
    autotune: bool

    def options(self, setting: Setting, **changes: Any) -> CompileOptions:
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
    """What one part did, by build."""

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
    """Put the graphs of ``build`` into the cache: all of them, or the one of this index; how many."""
    options = build.options(setting)
    with tempfile.TemporaryDirectory(dir=setting.work) as folder:
        work = Work(options, Path(folder))
        open_model(work)
        read_model(work)
        backend, (graph,) = select_backend(options), work.plan.graphs
        sizes = lowering_sizes(backend, graph)
        chosen = sizes if variant is None else sizes[variant : variant + 1]
        for size in chosen:
            cached_lower(backend, graph.source, size)
        return len(chosen)


def mark(setting: Setting, build: str, part: str) -> Path:
    """A file that says that a graph is in the cache: stage ``compile`` does not start a search."""
    folder = setting.work / "lowered"
    folder.mkdir(exist_ok=True)
    return folder / f"{build}.{part}"


def is_lowered(setting: Setting, build: Build) -> bool:
    parts = [part for part in PARTS if part.startswith("tuned")] if build.autotune else ["untuned"]
    return all(mark(setting, build.name, part).is_file() for part in parts)


def write_model(setting: Setting) -> None:
    """BERT-base, once for all parts: who comes first writes it, the others take it."""
    target = checkpoint(setting)
    if (target / "config.json").is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent))
    write_bert_base(made, **(TINY_BERT if setting.tiny else {}))
    try:
        made.rename(target)
    except OSError:  # another part was faster; its model is the same
        shutil.rmtree(made)


STAGE = Stage(
    "lower",
    "the graphs of BERT-base lower, side by side; searches for the fastest multiplications",
    limit=160,
    run=run,
    parts=PARTS,
    urgent=True,
    after=("machine",),
)
