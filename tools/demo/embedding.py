"""The first act: all-MiniLM-L6-v2 compiled, loaded, embedding as Hugging Face does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.table import Table

import precast
from precast.tools.bench.bench import contenders_of
from precast.tools.bench.comparison import describe, open_artifacts
from precast.tools.bench.machine import cores
from precast.tools.bench.minilm import checkpoint
from precast.tools.bench.peers.work import EmbedTexts, Work, makers
from precast.tools.bench.turns import Turns
from precast.tools.cli.compile import compile_command
from precast.tools.cli.console import out as console

LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.999}
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


def play(folder: Path) -> list[str]:
    """Compile into ``folder`` and show; gives the dtypes whose answers are not Hugging Face's."""
    console.rule("[bold]1. compile all-MiniLM-L6-v2 ahead of time")
    artifacts = {dtype: folder / f"minilm-{dtype}.precast" for dtype in LEAST_COSINE}
    for dtype, path in artifacts.items():
        console.print(f"precast compile all-MiniLM-L6-v2 -o {path} --dtype {dtype}", style="bold cyan")
        compile_command(str(checkpoint()), path, dtype=dtype, overwrite=True)
    console.rule("[bold]2. load and embed")
    for path in artifacts.values():
        started = time.perf_counter()
        with precast.Encoder.load(path) as engine:
            took = time.perf_counter() - started
            console.print(f"precast.Encoder.load({str(path)!r})  {took:.2f} s", highlight=False)
            embeddings = engine.embed(SENTENCES)
            similarity = engine.similarity(embeddings, embeddings)
    console.print(_similarity_table(similarity))
    console.rule("[bold]3. parity and time, beside Hugging Face in the same run")
    return _compare(artifacts)


def _similarity_table(similarity: np.ndarray) -> Table:
    table = Table("", *(str(n) for n in range(1, len(SENTENCES) + 1)), title="cosine similarity, bf16")
    for number, (text, row) in enumerate(zip(SENTENCES, similarity, strict=True), 1):
        cells = [f"[bold green]{v:.2f}[/]" if 0.4 <= v < 0.999 else f"{v:.2f}" for v in row]
        table.add_row(f"{number}  {text}", *cells)
    return table


def _compare(artifacts: Mapping[str, Path]) -> list[str]:
    """Print parity and time of every contender; return the dtypes whose answers are off."""
    batch = SENTENCES * 4
    model = str(checkpoint())
    compared = open_artifacts(list(artifacts.values()), model)
    with TemporaryDirectory() as folder:
        subject = describe(compared, model, cores(), Path(folder))
    contenders, _ = contenders_of(compared, subject, ("hf",))
    with Turns[Work, np.ndarray](makers(contenders, subject.threads)) as turns:
        answers, seconds = turns.measured(EmbedTexts((batch,)), ROUNDS)
    expected = answers["HF eager fp32"]
    cosine = {name: float((answer * expected).sum(-1).min()) for name, answer in answers.items()}
    median = {name: sorted(taken)[ROUNDS // 2] for name, taken in seconds.items()}
    table = Table("", f"{len(batch)} sentences", "against HF fp32", "least cosine to HF fp32", "")
    wrong = []
    for name, value in cosine.items():
        dtype = name.split()[-1]
        ok = value >= LEAST_COSINE[dtype]
        if name.startswith("precast") and not ok:
            wrong.append(dtype)
        verdict = "" if name.startswith("HF") else ("[green]agrees" if ok else "[red]DIFFERS")
        speed = f"{median['HF eager fp32'] / median[name]:.2f}×"
        table.add_row(name, f"{median[name] * 1e3:.1f} ms", speed, f"{value:.6f}", verdict)
    console.print(table)
    return wrong
