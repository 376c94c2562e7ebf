"""The speedup of each optimization step: MiniLM and T5-small, compiled with and without precast's kernels.

The table is in ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

from precast.artifacts.reader import read_manifest
from precast.compiler.options import CompileOptions
from precast.tools.bench.generation_models import MODELS, SHAPES, Shape, measured_sources, write_checkpoint
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.minilm import checkpoint
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.precast_artifact import Encoding, Generating, text_tokenizer, token_ids
from precast.tools.bench.peers.work import EmbedIds, Generate, Work, served
from precast.tools.bench.precision import Precision, compile_as
from precast.tools.bench.results import summary, write_result
from precast.tools.bench.sorting import TARGET_LENGTH
from precast.tools.bench.texts import texts

THREADS = 2
STEPS: dict[str, tuple[Precision, bool]] = {
    "PyTorch operators (oneDNN), fp32": ("fp32", False),
    "PyTorch operators (oneDNN), bf16": ("bf16", False),
    "precast kernels, fp32": ("fp32", True),
    "precast kernels, bf16": ("bf16", True),
    "precast kernels, int8": ("int8", True),
}
"""Precision of each step, and whether it uses precast's AVX-512 kernels."""


def artifacts(model: Path, folder: Path) -> dict[str, Path]:
    """Compile a model for each step and return the artifacts."""
    paths = {}
    for name, (precision, ours) in STEPS.items():
        path = folder / f"{precision}{'' if ours else '-torch'}.precast"
        if ours:
            compile_as(model, path, precision)
        else:
            with patch.object(CompileOptions, "kernels", PropertyMock(return_value="torch")):
                compile_as(model, path, precision)
        paths[name] = path
    return paths


def measure(
    name: str, make: Callable[..., Any], paths: Mapping[str, Path], works: Mapping[str, Work], rounds: int
) -> list[dict[str, Any]]:
    """Return one row for each workload and step; ``speedup`` is relative to the first step."""
    engines = {step: partial(served, partial(make, path, THREADS), THREADS) for step, path in paths.items()}
    rows: list[dict[str, Any]] = []
    with InterleavedProcesses[Work, Any](engines, rest=0.1) as processes:
        for what, work in works.items():
            taken = {step: summary(times) for step, times in processes.seconds(work, rounds).items()}
            first = next(iter(taken.values()))["median_ms"]
            rows += [
                {
                    "model": name,
                    "work": what,
                    "step": step,
                    **figures,
                    "speedup": round(first / figures["median_ms"], 2),
                }
                for step, figures in taken.items()
            ]
            print(f"{name}, {what}: measured", flush=True)
    return rows


def encoder_works(artifact: Path) -> dict[str, Work]:
    """Return the encoder workloads: token ids in, embeddings out."""
    tokenizer = text_tokenizer(artifact, read_manifest(artifact))
    works: dict[str, Work] = {
        f"32 {kind} texts": EmbedIds((token_ids(tokenizer, texts(kind)),))
        for kind in ("short", "mixed", "long")
    }
    return {"1 short text": EmbedIds((token_ids(tokenizer, texts("short", 1)),)), **works}


def decoder_works(shape: Shape) -> dict[str, Work]:
    """Return the generation workloads: token ids in and out."""
    return {
        f"{batch} x {'greedy' if beams == 1 else f'{beams} beams'}": Generate(
            Job(measured_sources(shape, batch), TARGET_LENGTH, beams)
        )
        for beams in (1, 4)
        for batch in (1, 16)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path("build/bench/steps"))
    options = parser.parse_args()
    shape = SHAPES[0]
    encoders = artifacts(checkpoint(), options.folder / "minilm")
    decoders = artifacts(write_checkpoint(shape, MODELS), options.folder / "t5-artifacts")
    first = next(iter(encoders.values()))
    rows = measure("MiniLM-L6", Encoding, encoders, encoder_works(first), options.rounds)
    rows += measure(shape.name, Generating, decoders, decoder_works(shape), options.rounds)
    path = write_result("steps", {"rounds": options.rounds, "threads": THREADS, "rows": rows})
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
