"""``precast bench``: artifacts compared with other runtimes of the same checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from precast.tools.cli.console import err, errors_as_exit, out, print_json, quiet_libraries
from precast.tools.cli.texts import read_texts

if TYPE_CHECKING:
    from precast.tools.bench.bench_result import BenchResult
    from precast.tools.bench.grids import Cell, Grid


def bench_command(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Directories of artifacts compiled from one checkpoint.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Peers, comma-separated: hf, compile, sentence-transformers, onnxruntime, openvino, "
            "ctranslate2. Default: all."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The checkpoint. Default: the one that the artifacts name.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="One text per line, or .jsonl. Default: built-in sets of texts.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; medians are reported.")] = 7,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each contender. Default: all cores.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result to a .json file.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report to an .html file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare artifacts with Hugging Face and other runtimes: speed, memory, cold start and accuracy."""
    for path, suffix, name in ((output, ".json", "--output"), (report, ".html", "--report")):
        if path is not None and path.suffix != suffix:
            raise typer.BadParameter(f"{name} {path} must end in {suffix}")
    sets = {} if texts is None else {texts.stem: read_texts(None, texts)}
    with errors_as_exit(as_json), quiet_libraries():
        from precast.tools.bench.bench import Options, run, write
        from precast.tools.bench.peers.registry import PEERS

        peers = tuple(PEERS) if against is None else tuple(name.strip() for name in against.split(","))
        options = Options(tuple(artifacts), peers, model, texts=sets, rounds=rounds, threads=threads)
        result = run(options, lambda line: err.print(line, style="dim", markup=False, highlight=False))
    for path in write(result, output, report):
        err.print(f"wrote {path}", style="dim", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        _show(result)


def _show(result: BenchResult) -> None:
    from precast.tools.bench.grids import grids

    for grid in grids(result):
        out.print(_table(grid))


def _table(grid: Grid) -> Table:
    table = Table(title=escape(grid.title), title_justify="left")
    for number, head in enumerate(grid.heads):
        table.add_column(escape(head), justify="left" if number < 2 else "right", no_wrap=number < 2)
    for row, ours in zip(grid.rows, grid.ours, strict=True):
        table.add_row(*(_cell(cell, ours) for cell in row), style="bold" if ours else None)
    return table


def _cell(cell: Cell, ours: bool) -> str:
    """Return the markup of a cell; only rows of precast show details, on a second line."""
    shown = f"[green]{escape(cell.text)}[/]" if cell.good else escape(cell.text)
    return f"{shown}\n[dim]{escape(cell.detail)}[/]" if ours and cell.detail else shown
