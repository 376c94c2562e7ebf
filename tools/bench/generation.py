"""Generation throughput compared with Hugging Face and CTranslate2, and serving of mixed-length requests.

``--quick`` runs the same code on tiny models as a smoke test; tables do not show its figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from precast.tools.bench.generation_calls import MeasuredCall, measure_call
from precast.tools.bench.generation_load import measure_load, measure_steps_per_sync
from precast.tools.bench.generation_models import (
    MODELS,
    SHAPES,
    TINY_SHAPES,
    Shape,
    measured_sources,
    write_checkpoint,
)
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.ctranslate2_model import convert
from precast.tools.bench.peers.ctranslate2_peer import CTranslate2Generating
from precast.tools.bench.peers.hugging_face import HuggingFaceGenerating
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.precast_artifact import Generating
from precast.tools.bench.peers.work import Work, served
from precast.tools.bench.precision import PRECISIONS, Precision, compile_as
from precast.tools.bench.results import FOLDER, write_result
from precast.tools.bench.sorting import SOURCE_LENGTH, TARGET_LENGTH

REFERENCE = "HF generate fp32"
RATIOS = {
    "speedup_vs_ctranslate2_int8": "CTranslate2 int8",
    "speedup_vs_ctranslate2_fp32": "CTranslate2 fp32",
    "speedup_vs_hf_fp32": REFERENCE,
    "speedup_vs_hf_bf16": "HF generate bf16",
}
"""Names of the speedups in the result file, and the contender that each refers to."""


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
        shapes: shapes of the models; mixed-length requests go to the first one.
        batches: batch sizes, in sources.
        beams: numbers of beams; 1 is greedy search.
        source_length: tokens of each source.
        new_tokens: tokens of each target.
        rounds: number of measured rounds; medians are reported.
        load_requests: number of mixed-length requests.
        load_rounds: number of measured rounds of mixed-length requests.
        threads: threads of each contender.
        rest: seconds to wait before each call.
        backend: backend of the precast compiler.
    """

    shapes: tuple[Shape, ...] = SHAPES
    batches: tuple[int, ...] = (1, 16)
    beams: tuple[int, ...] = (1, 4)
    source_length: int = SOURCE_LENGTH
    new_tokens: int = TARGET_LENGTH
    rounds: int = 5
    load_requests: int = 200
    load_rounds: int = 3
    threads: int = 2
    rest: float = 0.1
    backend: Literal["inductor", "reference"] = "inductor"


QUICK = Settings(
    shapes=TINY_SHAPES,
    batches=(1, 4),
    new_tokens=16,
    rounds=1,
    load_requests=24,
    load_rounds=1,
    backend="reference",
)


@dataclass(frozen=True)
class Prepared:
    """A model in the format of each contender.

    Attributes:
        checkpoint: directory of the Hugging Face checkpoint.
        converted: directory of the CTranslate2 model.
        artifacts: precast artifacts by precision.
    """

    checkpoint: Path
    converted: Path
    artifacts: dict[Precision, Path]


def prepare(shape: Shape, folder: Path, backend: Literal["inductor", "reference"]) -> Prepared:
    """Write, convert and compile a model; graphs come from the compiler's cache if it has them.

    Args:
        shape: shape of the model.
        folder: directory for all models.
        backend: backend of the precast compiler.
    """
    checkpoint = write_checkpoint(shape, folder)
    home = checkpoint.parent
    converted = convert(checkpoint, home / "ctranslate2")
    artifacts = {precision: home / f"{precision}.precast" for precision in PRECISIONS}
    for precision, path in artifacts.items():
        compile_as(checkpoint, path, precision, backend)
    return Prepared(checkpoint, converted, artifacts)


def makers(model: Prepared, threads: int) -> dict[str, Callable[[], Callable[[Work], Any]]]:
    """Return functions that create the contenders for one model, in the order of their calls."""
    engines: dict[str, Callable[[], Any]] = {
        **{f"precast {name}": partial(Generating, path, threads) for name, path in model.artifacts.items()},
        REFERENCE: partial(HuggingFaceGenerating, model.checkpoint, torch.float32, threads),
        "HF generate bf16": partial(HuggingFaceGenerating, model.checkpoint, torch.bfloat16, threads),
        "CTranslate2 fp32": partial(CTranslate2Generating, model.converted, "float32", threads),
        "CTranslate2 int8": partial(CTranslate2Generating, model.converted, "int8", threads),
    }
    return {name: partial(served, make, threads) for name, make in engines.items()}


def measure(shape: Shape, model: Prepared, settings: Settings) -> list[dict[str, Any]]:
    """Return one row for each batch size, number of beams and contender."""
    rows: list[dict[str, Any]] = []
    with InterleavedProcesses[Work, Any](makers(model, settings.threads), settings.rest) as processes:
        for beams in settings.beams:
            for batch in settings.batches:
                sources = measured_sources(shape, batch, settings.source_length)
                job = Job(sources, settings.new_tokens, beams)
                calls = measure_call(processes, job, settings.rounds, REFERENCE)
                rows += _rows(shape, job, calls)
                print(f"{shape.name}, batch {batch}, beams {beams}: measured", flush=True)
    return rows


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Run the whole benchmark.

    Args:
        settings: what to measure.
        folder: directory of all models.

    Returns:
        JSON: ``rows`` of calls in interleaved rounds, and ``load`` with the figures of mixed-length requests.

    Raises:
        RuntimeError: a contender's process exited.
    """
    prepared = [prepare(shape, folder, settings.backend) for shape in settings.shapes]
    rows: list[dict[str, Any]] = []
    for shape, model in zip(settings.shapes, prepared, strict=True):
        rows += measure(shape, model, settings)
    first = settings.shapes[0]
    sizes = {
        "count": settings.load_requests,
        "rounds": settings.load_rounds,
        "threads": settings.threads,
    }
    load = measure_load(prepared[0].artifacts["bf16"], first.vocab_size, **sizes)
    by_steps = measure_steps_per_sync(prepared[0].artifacts["bf16"], first.vocab_size, **sizes)
    return {
        **{name: getattr(settings, name) for name in ("source_length", "new_tokens", "rounds", "threads")},
        "shapes": [asdict(shape) for shape in settings.shapes],
        "rows": rows,
        "load": {"shape": first.name, "contender": "precast bf16", **load, "by_steps_per_sync": by_steps},
    }


def _rows(shape: Shape, job: Job, calls: Mapping[str, MeasuredCall]) -> list[dict[str, Any]]:
    return [
        {
            "shape": shape.name,
            "batch": len(job.sources),
            "beams": job.beams,
            "contender": name,
            "median_s": round(call.median, 6),
            "min_s": round(min(call.seconds), 6),
            "max_s": round(max(call.seconds), 6),
            "tokens_per_s": call.tokens_per_s,
            **{speedup: round(calls[peer].median / call.median, 2) for speedup, peer in RATIOS.items()},
            "token_agreement": call.token_agreement,
        }
        for name, call in calls.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models, one round")
    parser.add_argument(
        "--output", type=Path, help="result file (default: benchmarks/results/generation.json)"
    )
    parser.add_argument("--models", type=Path, default=MODELS)
    options = parser.parse_args()
    content = run(QUICK if options.quick else Settings(), options.models)
    default = options.models / "quick.json" if options.quick else FOLDER / "generation.json"
    print(
        f"wrote {write_result('generation', {'quick': options.quick, **content}, options.output or default)}"
    )


if __name__ == "__main__":
    main()
