"""Where results and errors go: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from precast.graphs.errors import PrecastError

out = Console()
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON value on one line, for machines."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


@contextmanager
def errors_as_exit(as_json: bool) -> Iterator[None]:
    """End with status 2 and the error's message; a traceback is for faults that are ours."""
    try:
        yield
    except PrecastError as error:
        if as_json:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        else:
            err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
