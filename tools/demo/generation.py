"""The second act: a T5 and a Marian that learn to write dates, compiled, generating as Hugging Face does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from rich.table import Table

import precast
from precast.tools.bench.turns import Turns
from precast.tools.cli.compile import compile_command
from precast.tools.cli.console import out as console
from precast.tools.demo.contenders import HF_ALONE, Work, generated, makers, same_answers
from precast.tools.synthetic import LONGEST_TARGET, held_out_dates, write_dates_model

DTYPES: Mapping[str, tuple[str, ...]] = {"t5": ("fp32", "bf16"), "marian": ("fp32",)}
"""What is compiled of each family."""
MODES: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"max_new_tokens": LONGEST_TARGET - 1},
    "4 beams": {"max_new_tokens": LONGEST_TARGET - 1, "num_beams": 4},
}
DATES = 32
ROUNDS = 5
LEAST_RIGHT = 0.95
"""Of held-out dates. Below it the training has failed, and equal answers would say little."""
_ROWS = 128


def play(folder: Path) -> list[str]:
    """Train and compile into ``folder`` and show; gives what is not as Hugging Face answers."""
    transformers.utils.logging.disable_progress_bar()
    console.rule("[bold]4. train a tiny T5 and a tiny Marian to write dates in ISO 8601")
    checkpoints = _train(folder)
    console.rule("[bold]5. compile them ahead of time")
    artifacts = {family: _compile(checkpoints[family], folder, family) for family in DTYPES}
    console.rule("[bold]6. generate: dates that neither was trained on")
    pairs = held_out_dates(DATES)
    wrong: list[str] = []
    for family, paths in artifacts.items():
        for dtype, path in paths.items():
            wrong += _answer(f"{family} {dtype}", path, pairs)
    console.rule("[bold]7. the same tokens as Hugging Face, and tokens per second in the same run")
    for family, paths in artifacts.items():
        wrong += compare(family, checkpoints[family], paths, tuple(text for text, _ in pairs))
    return wrong


def _train(folder: Path) -> dict[str, Path]:
    """Both at the same time: neither gains from a second thread."""
    started = time.perf_counter()
    with ProcessPoolExecutor(len(DTYPES), get_context("spawn")) as pool:
        making = {family: pool.submit(write_dates_model, family, folder / family) for family in DTYPES}
        checkpoints = {family: one.result() for family, one in making.items()}
    took = time.perf_counter() - started
    console.print(f"{' and '.join(map(str, checkpoints.values()))}: trained in {took:.1f} s", highlight=False)
    return checkpoints


def _compile(checkpoint: Path, folder: Path, family: str) -> dict[str, Path]:
    paths = {dtype: folder / f"dates-{family}-{dtype}.precast" for dtype in DTYPES[family]}
    for dtype, path in paths.items():
        console.print(f"precast compile {checkpoint} -o {path} --dtype {dtype}", style="bold cyan")
        compile_command(
            str(checkpoint),
            path,
            dtype=dtype,
            max_target_length=LONGEST_TARGET,
            max_num_seqs=_ROWS,
            overwrite=True,
        )
    return paths


def _answer(name: str, path: Path, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Show answers of all kinds; gives the name if too few are right."""
    texts = [text for text, _ in pairs]
    with precast.Seq2Seq.load(path) as engine:
        answers = {mode: engine.generate(texts, **options) for mode, options in MODES.items()}
        pieces = list(engine.stream(texts[1], **MODES["greedy"]))
    right = {
        mode: sum(answer.text == iso for answer, (_, iso) in zip(found, pairs, strict=True))
        for mode, found in answers.items()
    }
    said = ", ".join(f"{mode} {count} of {len(pairs)} right" for mode, count in right.items())
    table = Table("date", *MODES, "score of the best beam", title=f"{name}: {said}")
    for at, (text, iso) in enumerate(pairs[:6]):
        cells = [answers[mode][at].text for mode in MODES]
        shown = [f"[{'green' if cell == iso else 'red'}]{cell}[/]" for cell in cells]
        table.add_row(text, *shown, f"{answers['4 beams'][at].score:.4f}")
    console.print(table)
    console.print(f"streamed, piece by piece: {' · '.join(pieces)}", highlight=False)
    enough = min(right.values()) >= LEAST_RIGHT * len(pairs) and "".join(pieces) == answers["greedy"][1].text
    return [] if enough else [f"{name}, held-out dates"]


def compare(
    family: str, checkpoint: Path, artifacts: Mapping[str, Path], texts: tuple[str, ...]
) -> list[str]:
    """Print tokens and time of every contender; gives those of fp32 that Hugging Face contradicts.

    Args:
        family: for the title.
        checkpoint: that the artifacts were compiled from.
        artifacts: by dtype.
        texts: to be answered.
    """
    wrong = []
    with Turns(makers(checkpoint, artifacts)) as turns:
        for mode, options in MODES.items():
            answers, seconds = turns.measured(Work(texts, options), ROUNDS)
            same = {name: same_answers(answer, answers[HF_ALONE]) for name, answer in answers.items()}
            speed = {
                name: generated(answers[name]) / float(np.median(taken)) for name, taken in seconds.items()
            }
            console.print(_table(f"{family}, {mode}", len(texts), speed, same))
            fp32 = [name for name in answers if name.startswith("precast fp32")]
            wrong += [f"{family} {mode}, {name}" for name in fp32 if same[name] < len(texts)]
    return wrong


def _table(title: str, count: int, speed: Mapping[str, float], same: Mapping[str, int]) -> Table:
    table = Table(
        "", "tokens/s", "speed", "same tokens", "",
        title=f"{title}: {count} dates, median of {ROUNDS} rounds in turns, one thread each; "
        f"compared with {HF_ALONE}",
    )  # fmt: skip
    for name, rate in speed.items():
        verdict = "[green]equal" if same[name] == count else "[red]DIFFERS"
        ratio = f"{rate / speed[HF_ALONE]:.2f}×"
        cells = (f"{rate:,.0f}", ratio, f"{same[name]} of {count}")
        table.add_row(name, *cells, verdict if name.startswith("precast") else "")
    return table
