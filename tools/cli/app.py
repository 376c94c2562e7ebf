"""The ``precast`` command with its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

import precast
from precast.tools.cli.bench import bench_command
from precast.tools.cli.compile import compile_command, verify_command
from precast.tools.cli.encode import classify_command, embed_command, rank_command
from precast.tools.cli.generate import generate_command
from precast.tools.cli.show import inspect_command

app = typer.Typer(
    name="precast",
    help="Ahead-of-time compiler and lightweight runtime for Hugging Face encoders and encoder-decoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_command)
app.command("inspect")(inspect_command)
app.command("verify")(verify_command)
app.command("embed")(embed_command)
app.command("classify")(classify_command)
app.command("rank")(rank_command)
app.command("generate")(generate_command)
app.command("bench")(bench_command)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(precast.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
