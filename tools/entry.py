"""Entry point of the ``precast`` command, which needs the ``compile`` extra."""

from __future__ import annotations

import importlib.util
import sys


def main() -> None:
    """Run the command, or exit with a message if typer or rich is not installed."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {' and '.join(missing)}: pip install 'precast[compile]'")
    from precast.tools.cli.app import app

    app()
