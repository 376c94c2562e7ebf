"""Both parts of the demo. Exits with a status other than 0 if an output differs from Hugging Face."""

from __future__ import annotations

import sys
from pathlib import Path

from precast.tools.cli.console import out
from precast.tools.demo import embedding, generation


def main() -> None:
    folder = Path("build/demo")
    different = [*embedding.run(folder), *generation.run(folder)]
    if different:
        sys.exit(f"outputs differ from Hugging Face: {', '.join(different)}")
    out.print("[bold green]all outputs agree with Hugging Face")


if __name__ == "__main__":
    main()
