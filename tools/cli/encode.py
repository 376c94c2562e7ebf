"""``precast embed``, ``classify`` and ``rank``: encoder artifacts on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

import precast
from precast.tools.cli.console import errors_as_exit, out, print_json
from precast.tools.cli.texts import read_texts, write_array, write_records

Artifact = Annotated[Path, typer.Argument(help="Directory of the artifact.")]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts. Default: --input or standard input.")]
Input = Annotated[
    Path | None,
    typer.Option("--input", "-i", help="File with one text per line, or .jsonl; - is standard input."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")]
Truncate = Annotated[bool, typer.Option("--truncate/--no-truncate", help="Truncate texts that are too long.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MAX_SHOWN = 60
"""Characters of a text that a table shows."""


def embed_command(
    artifact: Artifact,
    texts: Texts = None,
    source: Input = None,
    output: Output = None,
    prompt_name: Annotated[str | None, typer.Option(help="Name of a prompt of the checkpoint.")] = None,
    normalize_embeddings: Annotated[
        bool, typer.Option("--normalize-embeddings", help="Normalize embeddings to unit length.")
    ] = False,
    truncate_dim: Annotated[
        int | None, typer.Option(help="Truncate embeddings to this many dimensions.")
    ] = None,
    truncate: Truncate = True,
    as_json: Json = False,
) -> None:
    """Embed texts; --output writes .npy or .jsonl."""
    given = read_texts(texts, source)
    with errors_as_exit(as_json), precast.Encoder.load(artifact) as engine:
        array = engine.embed(
            given,
            prompt_name=prompt_name,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            truncate=truncate,
        )
    if output is not None:
        write_array(output, given, array)
    elif as_json:
        print_json(array.tolist())
    else:
        table = Table("text", f"embedding ({array.shape[-1]} dimensions)")
        for text, vector in zip(given, array, strict=True):
            table.add_row(_short(text), "  ".join(f"{value:+.4f}" for value in vector[:6]) + "  …")
        out.print(table)


def classify_command(
    artifact: Artifact,
    texts: Texts = None,
    source: Input = None,
    output: Output = None,
    top_k: Annotated[int, typer.Option(help="Number of labels per text; 0 for all.")] = 1,
    truncate: Truncate = True,
    as_json: Json = False,
) -> None:
    """Classify texts: labels and scores."""
    given = read_texts(texts, source)
    with errors_as_exit(as_json), precast.Encoder.load(artifact) as engine:
        results = cast(list[Any], engine.classify(given, top_k=top_k or None, truncate=truncate))
    labels_by_text = [result if isinstance(result, list) else [result] for result in results]
    if output is not None:
        records = (
            {"text": text, "labels": labels} for text, labels in zip(given, labels_by_text, strict=True)
        )
        write_records(output, records)
    elif as_json:
        print_json(labels_by_text)
    else:
        table = Table("text", "labels")
        for text, labels in zip(given, labels_by_text, strict=True):
            table.add_row(_short(text), ", ".join(f"{e['label']} {e['score']:.4f}" for e in labels))
        out.print(table)


def rank_command(
    artifact: Artifact,
    query: Annotated[str, typer.Argument(help="Query that the documents are ranked for.")],
    documents: Annotated[
        list[str] | None, typer.Argument(help="Documents. Default: --input or standard input.")
    ] = None,
    source: Input = None,
    output: Output = None,
    top_k: Annotated[int | None, typer.Option(help="Number of documents to show. Default: all.")] = None,
    truncate: Truncate = True,
    as_json: Json = False,
) -> None:
    """Rank documents by their score for a query, best first."""
    given = read_texts(documents, source)
    with errors_as_exit(as_json), precast.Encoder.load(artifact) as engine:
        ranked = engine.rank(query, given, top_k=top_k, return_documents=True, truncate=truncate)
    if output is not None:
        write_records(output, ranked)
    elif as_json:
        print_json(ranked)
    else:
        table = Table("rank", "score", "document")
        for rank, entry in enumerate(ranked, 1):
            table.add_row(str(rank), f"{entry['score']:.4f}", _short(entry["text"]))
        out.print(table)


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("[", r"\[")
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 1] + "…"
