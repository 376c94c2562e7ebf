"""The ``precast`` command. It needs the ``compile`` extra, which the runtime does not."""

from __future__ import annotations

import importlib.util
import sys


def main() -> None:
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"the command line needs {' and '.join(missing)}: pip install 'precast[compile]'")
    from precast.tools.cli.app import app

    app()
