"""The second part of the demo: a T5 and a Marian that rewrite dates, compared with Hugging Face."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import precast
from precast.compiler.options import CompileOptions
from precast.graphs.encode import Dtype
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.cli.compile import compile_model
from precast.tools.cli.console import out as console
from precast.tools.demo.generators import (
    HF_SINGLE,
    GenerateCall,
    count_generated,
    count_identical,
    makers,
)
from precast.tools.synthetic import LONGEST_TARGET, held_out_dates, write_dates_model

DTYPES: Mapping[str, tuple[Dtype, ...]] = {"t5": ("fp32", "bf16"), "marian": ("fp32",)}
"""Dtypes that are compiled, by family."""
MODES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"max_new_tokens": LONGEST_TARGET - 1},
    "4 beams": {"max_new_tokens": LONGEST_TARGET - 1, "num_beams": 4},
}
DATES = 32
ROUNDS = 5
MIN_ACCURACY = 0.95
"""Share of held-out dates that must be converted correctly: below it the training has failed."""
_MAX_NUM_SEQS = 128


def run(folder: Path) -> list[str]:
    """Train and compile into ``folder``, show the results, and return what differs from Hugging Face."""
    console.rule("[bold]4. train a tiny T5 and a tiny Marian to rewrite dates in ISO 8601")
    checkpoints = _train(folder)
    console.rule("[bold]5. compile them ahead of time")
    artifacts = {family: _compile(checkpoints[family], folder, family) for family in DTYPES}
    console.rule("[bold]6. generate: dates that neither was trained on")
    pairs = held_out_dates(DATES)
    failed: list[str] = []
    for family, paths in artifacts.items():
        for dtype, path in paths.items():
            failed += _generate(f"{family} {dtype}", path, pairs)
    console.rule("[bold]7. the same tokens as Hugging Face, and tokens per second")
    for family, paths in artifacts.items():
        failed += compare(family, checkpoints[family], paths, tuple(text for text, _ in pairs))
    return failed


def _train(folder: Path) -> dict[str, Path]:
    """Train both models in parallel: neither profits from a second thread."""
    started = time.perf_counter()
    with ProcessPoolExecutor(len(DTYPES), get_context("spawn")) as pool:
        futures = {family: pool.submit(write_dates_model, family, folder / family) for family in DTYPES}
        checkpoints = {family: future.result() for family, future in futures.items()}
    seconds = time.perf_counter() - started
    names = " and ".join(map(str, checkpoints.values()))
    console.print(f"{names}: trained in {seconds:.1f} s", highlight=False)
    return checkpoints


def _compile(checkpoint: Path, folder: Path, family: str) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for dtype in DTYPES[family]:
        paths[dtype] = path = folder / f"dates-{family}-{dtype}.precast"
        console.print(f"precast compile {checkpoint} -o {path} --dtype {dtype}", style="bold cyan")
        options = CompileOptions(
            model=str(checkpoint),
            output=path,
            dtype=dtype,
            max_target_length=LONGEST_TARGET,
            max_num_seqs=_MAX_NUM_SEQS,
            overwrite=True,
        )
        compile_model(options)
    return paths


def _generate(name: str, path: Path, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Show outputs of all modes; return the name if too few are correct."""
    texts = [text for text, _ in pairs]
    with precast.Seq2Seq.load(path) as engine:
        outputs = {mode: engine.generate(texts, **options) for mode, options in MODES.items()}
        pieces = list(engine.stream(texts[1], **MODES["greedy"]))
    correct = {
        mode: sum(output.text == iso for output, (_, iso) in zip(outputs[mode], pairs, strict=True))
        for mode in MODES
    }
    counts = ", ".join(f"{mode} {count} of {len(pairs)} correct" for mode, count in correct.items())
    table = Table("date", *MODES, "score of the best beam", title=f"{name}: {counts}")
    for at, (text, iso) in enumerate(pairs[:6]):
        cells = [outputs[mode][at].text for mode in MODES]
        colored = [f"[{'green' if cell == iso else 'red'}]{cell}[/]" for cell in cells]
        table.add_row(text, *colored, f"{outputs['4 beams'][at].score:.4f}")
    console.print(table)
    console.print(f"streamed: {' · '.join(pieces)}", highlight=False)
    enough = min(correct.values()) >= MIN_ACCURACY * len(pairs)
    streamed = "".join(pieces) == outputs["greedy"][1].text
    return [] if enough and streamed else [f"{name}, held-out dates"]


def compare(
    family: str, checkpoint: Path, artifacts: Mapping[str, Path], texts: tuple[str, ...]
) -> list[str]:
    """Print tokens and speed of every contender; return the fp32 ones that differ from Hugging Face.

    Args:
        family: name for titles.
        checkpoint: the checkpoint that the artifacts were compiled from.
        artifacts: artifacts by dtype.
        texts: the inputs.
    """
    different = []
    with InterleavedProcesses(makers(checkpoint, artifacts)) as processes:
        for mode, options in MODES.items():
            outputs, seconds = processes.measured(GenerateCall(texts, options), ROUNDS)
            identical = {
                name: count_identical(output, outputs[HF_SINGLE]) for name, output in outputs.items()
            }
            speed = {
                name: count_generated(outputs[name]) / float(np.median(times))
                for name, times in seconds.items()
            }
            console.print(_table(f"{family}, {mode}", len(texts), speed, identical))
            fp32 = [name for name in outputs if name.startswith("precast fp32")]
            different += [f"{family} {mode}, {name}" for name in fp32 if identical[name] < len(texts)]
    return different


def _table(title: str, count: int, speed: Mapping[str, float], identical: Mapping[str, int]) -> Table:
    table = Table(
        "", "tokens/s", "speedup", "identical outputs", "",
        title=f"{title}: {count} dates, median of {ROUNDS} interleaved rounds, one thread each; "
        f"compared with {HF_SINGLE}",
    )  # fmt: skip
    for name, rate in speed.items():
        verdict = "[green]equal" if identical[name] == count else "[red]DIFFERS"
        ratio = f"{rate / speed[HF_SINGLE]:.2f}×"
        cells = (f"{rate:,.0f}", ratio, f"{identical[name]} of {count}")
        table.add_row(name, *cells, verdict if name.startswith("precast") else "")
    return table
