"""The first part of the demo: all-MiniLM-L6-v2 is compiled, loaded and compared with Hugging Face."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.table import Table

import precast
from precast.compiler.options import CompileOptions
from precast.graphs.encode import Dtype
from precast.tools.bench.bench import contenders_of
from precast.tools.bench.comparison import describe, open_artifacts
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.machine import cores
from precast.tools.bench.minilm import checkpoint
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.peers.work import EmbedTexts, Work, makers
from precast.tools.cli.compile import compile_model
from precast.tools.cli.console import out as console

MIN_COSINE: Mapping[Dtype, float] = {"fp32": 0.99999, "bf16": 0.999}
"""Lowest cosine to HF fp32 that is accepted, by dtype; the dtypes that are compiled."""
ROUNDS = 9
SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is dozing in the sun.",
    "Interest rates were raised by the central bank.",
    "The bank of the river was flooded after the storm.",
    "Monetary policy tightened again this quarter.",
    "How do I reset the password of my account?",
    "I forgot my login and cannot sign in any more.",
]


def run(folder: Path) -> list[str]:
    """Compile into ``folder``, show the results, and return the dtypes that differ from Hugging Face."""
    console.rule("[bold]1. compile all-MiniLM-L6-v2 ahead of time")
    artifacts = {dtype: folder / f"minilm-{dtype}.precast" for dtype in MIN_COSINE}
    for dtype, path in artifacts.items():
        console.print(f"precast compile all-MiniLM-L6-v2 -o {path} --dtype {dtype}", style="bold cyan")
        compile_model(CompileOptions(model=str(checkpoint()), output=path, dtype=dtype, overwrite=True))
    console.rule("[bold]2. load and embed")
    for path in artifacts.values():
        started = time.perf_counter()
        with precast.Encoder.load(path) as engine:
            seconds = time.perf_counter() - started
            console.print(f"precast.Encoder.load({str(path)!r})  {seconds:.2f} s", highlight=False)
            embeddings = engine.embed(SENTENCES)
            similarity = engine.similarity(embeddings, embeddings)
    console.print(_similarity_table(similarity))
    console.rule("[bold]3. accuracy and speed compared with Hugging Face")
    return _compare(list(artifacts.values()))


def _similarity_table(similarity: np.ndarray) -> Table:
    table = Table("", *(str(n) for n in range(1, len(SENTENCES) + 1)), title="cosine similarity, bf16")
    for number, (text, row) in enumerate(zip(SENTENCES, similarity, strict=True), 1):
        cells = [f"[bold green]{v:.2f}[/]" if 0.4 <= v < 0.999 else f"{v:.2f}" for v in row]
        table.add_row(f"{number}  {text}", *cells)
    return table


def _compare(artifacts: list[Path]) -> list[str]:
    """Print accuracy and speed of every contender; return the dtypes that are not accurate enough."""
    batch = SENTENCES * 4
    model = str(checkpoint())
    compared = open_artifacts(artifacts, model)
    with TemporaryDirectory() as folder:
        subject = describe(compared, model, cores(), Path(folder))
    contenders, _ = contenders_of(compared, subject, ("hf",))
    with InterleavedProcesses[Work, np.ndarray](makers(contenders, subject.threads)) as processes:
        outputs, seconds = processes.measured(EmbedTexts((batch,)), ROUNDS)
    expected = outputs[REFERENCE]
    median = {name: sorted(times)[ROUNDS // 2] for name, times in seconds.items()}
    precision = {contender.name: contender.precision for contender in contenders}
    minimum: Mapping[str, float] = {str(dtype): cosine for dtype, cosine in MIN_COSINE.items()}
    table = Table("", f"{len(batch)} sentences", "speedup over HF fp32", "lowest cosine to HF fp32", "")
    inaccurate: list[str] = []
    for name, output in outputs.items():
        cosine = float((output * expected).sum(-1).min())
        accurate = cosine >= minimum[precision[name]]
        ours = name.startswith("precast")
        if ours and not accurate:
            inaccurate.append(precision[name])
        verdict = "" if not ours else ("[green]agrees" if accurate else "[red]DIFFERS")
        speedup = f"{median[REFERENCE] / median[name]:.2f}×"
        table.add_row(name, f"{median[name] * 1e3:.1f} ms", speedup, f"{cosine:.6f}", verdict)
    console.print(table)
    return inaccurate
