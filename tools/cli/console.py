"""Console output: results go to standard output, progress, notes and errors to standard error."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from precast.graphs.errors import PrecastError

out = Console()
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON value on one line, for scripts."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


@contextmanager
def errors_as_exit(as_json: bool) -> Iterator[None]:
    """Print a ``PrecastError`` and exit with status 2; other exceptions are bugs and keep their traceback."""
    try:
        yield
    except PrecastError as error:
        if as_json:
            print_json({"error": {"type": type(error).__name__, "message": str(error)}})
        else:
            err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress progress bars, log messages and deprecation warnings of transformers and torch.

    They concern the author of a library call, not the user of a command. Errors still propagate.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    progress_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category, module=r"(torch|transformers)(\.|$)")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bars:
            logging.enable_progress_bar()
