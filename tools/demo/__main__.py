"""Both acts. Ends with a status other than 0 if an answer is not what Hugging Face gives."""

from __future__ import annotations

import sys
from pathlib import Path

from precast.tools.cli.console import out
from precast.tools.demo import embedding, generation


def main() -> None:
    folder = Path("build/demo")
    wrong = [*embedding.play(folder), *generation.play(folder)]
    if wrong:
        sys.exit(f"PARITY FAILED for {', '.join(wrong)}")
    out.print("[bold green]every answer agrees with Hugging Face's")


if __name__ == "__main__":
    main()
