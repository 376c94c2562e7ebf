"""Where the time of MiniLM in int8 goes, by Linux's ``perf``: ``benchmarks/results/profile.json``."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from precast.artifacts.reader import read_manifest
from precast.tools.bench import minilm
from precast.tools.bench.peers.precast_artifact import Encoding, text_tokenizer, token_ids
from precast.tools.bench.results import write_result
from precast.tools.bench.texts import texts

THREADS = 2
STARTED = 6.0
"""Seconds after which everything is loaded and warm; samples are taken from then on."""
WORKS = {"1 short text": ("short", 1), "32 short texts": ("short", 32), "32 long texts": ("long", 32)}
GROUPS = {
    "products of linear layers": r"Panel<[^>]*Identity",
    "products with GELU inside": r"Panel<[^>]*Gelu",
    "quantizing rows": r"quantize_row|precast::linear",
    "attention": r"Head<|attention|lay_keys|lay_values",
    "norms, sums, embeddings, pooling": r"cpp_fused|pool_sequences",
    "threads that wait": r"libgomp",
    "Python and the rest": r"",
}
"""By what a sample's function or library is called; the first that fits counts."""


def group_of(sample: str) -> str:
    """The group of a line of ``perf script``: a function and its library."""
    return next(name for name, pattern in GROUPS.items() if re.search(pattern, sample))


def shares(samples: Iterable[str]) -> dict[str, float]:
    """The share of each group among the samples."""
    counted = Counter(map(group_of, samples))
    total = counted.total() or 1
    return {name: round(counted[name] / total, 4) for name in GROUPS}


def profile(artifact: Path, kind: str, batch: int, seconds: float) -> dict[str, float]:
    """Run a piece of work again and again in a process of its own, and look at what it does."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        work = [sys.executable, "-m", __spec__.name, "--run", kind, str(batch), str(seconds), str(artifact)]
        record = ["perf", "record", "-e", "cpu-clock", "-q", "-D", str(round(STARTED * 1e3)), "-o", data]
        subprocess.run([*record, *work], check=True, capture_output=True)
        script = subprocess.run(
            ["perf", "script", "-i", data, "-F", "ip,sym,dso"], check=True, capture_output=True, text=True
        )
    return shares(line for line in script.stdout.splitlines() if line.strip())


def work_again(artifact: Path, kind: str, batch: int, seconds: float) -> None:
    """What is looked at."""
    engine = Encoding(artifact, THREADS)
    ids = token_ids(text_tokenizer(artifact, read_manifest(artifact)), texts(kind, batch))
    end = time.monotonic() + STARTED + seconds
    while time.monotonic() < end:
        engine.embed_ids(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        kind, batch, seconds, path = options.run
        work_again(Path(path), kind, int(batch), float(seconds))
        return
    if shutil.which("perf") is None:
        print("no profile: this needs perf (Debian: apt-get install linux-perf)")
        return
    artifact = minilm.artifact(options.artifacts, "int8")
    rows = [
        {"work": work, "shares": profile(artifact, kind, batch, options.seconds)}
        for work, (kind, batch) in WORKS.items()
    ]
    print(f"wrote {write_result('profile', {'threads': THREADS, 'rows': rows}).name}")


if __name__ == "__main__":
    main()
