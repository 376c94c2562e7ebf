"""Reading texts from arguments, a file or standard input, and writing arrays and records to files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import typer


def read_texts(arguments: list[str] | None, source: Path | None) -> list[str]:
    """Return the texts of the command line, or else the lines of ``source`` (``-`` is standard input).

    Each line of a ``.jsonl`` file holds a string or an object with the key ``text``.

    Raises:
        typer.BadParameter: there are no texts, or both arguments and a file, or a line without a text.
    """
    if arguments and source:
        raise typer.BadParameter("give texts or --input, not both")
    if arguments:
        return arguments
    if source is None and sys.stdin.isatty():
        raise typer.BadParameter("give texts, --input FILE, or pipe texts in")
    if source is None or str(source) == "-":
        return sys.stdin.read().splitlines()
    if not source.is_file():
        raise typer.BadParameter(f"{source} is not a file")
    lines = source.read_text("utf-8").splitlines()
    return [_json_text(line, n) for n, line in enumerate(lines, 1)] if source.suffix == ".jsonl" else lines


def _json_text(line: str, number: int) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise typer.BadParameter(f"line {number} is not valid JSON: {error}") from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise typer.BadParameter(
            f"line {number}: expected a string or an object with text, found {line[:80]}"
        )
    return text


def write_array(path: Path, texts: list[str], array: np.ndarray) -> None:
    """Write embeddings: the array as ``.npy``, or one object per text as ``.jsonl``."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".jsonl":
        rows = ({"text": t, "embedding": v.tolist()} for t, v in zip(texts, array, strict=True))
        write_records(path, rows)
    else:
        raise typer.BadParameter(f"--output {path} must end in .npy or .jsonl")


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write one JSON value per line."""
    if path.suffix != ".jsonl":
        raise typer.BadParameter(f"--output {path} must end in .jsonl")
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
