"""``precast bench`` of all-MiniLM-L6-v2 in every precision, with an HTML report next to the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from precast.tools.bench.bench import Options, run, write
from precast.tools.bench.minilm import artifact, checkpoint
from precast.tools.bench.precision import PRECISIONS
from precast.tools.bench.results import FOLDER

NAME = "bench_encoder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="threads of each contender (default: all cores)")
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    paths = tuple(artifact(options.artifacts, precision) for precision in PRECISIONS)
    bench_options = Options(
        paths,
        model=str(checkpoint()),
        name="all-MiniLM-L6-v2",
        rounds=options.rounds,
        threads=options.threads,
    )
    for path in write(run(bench_options), FOLDER / f"{NAME}.json", FOLDER / f"{NAME}.html"):
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
