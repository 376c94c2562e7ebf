"""CPU profiles of int8 artifacts, recorded with Linux ``perf``: ``benchmarks/results/profile.json``."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from precast.artifacts.reader import read_manifest
from precast.tools.bench import minilm
from precast.tools.bench.generation import prepare
from precast.tools.bench.generation_models import MODELS, SHAPES, measured_sources
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.precast_artifact import Encoding, Generating, text_tokenizer, token_ids
from precast.tools.bench.results import write_result
from precast.tools.bench.sorting import TARGET_LENGTH
from precast.tools.bench.texts import texts

THREADS = 2
WARM = 1.0
"""Seconds of work before samples are recorded."""
READY = "ready"
ENCODER, DECODER = "MiniLM-L6", SHAPES[0]
TEXTS = {"1 short text": ("short", 1), "32 short texts": ("short", 32), "32 long texts": ("long", 32)}
SEARCHES = {"1 x greedy": (1, 1), "16 x greedy": (16, 1), "16 x 4 beams": (16, 4)}
"""Batch size and number of beams."""
GROUPS: Mapping[str, Mapping[str, str]] = {
    ENCODER: {
        "linear layers": r"Panel<[^>]*Identity",
        "linear layers with fused GELU": r"Panel<[^>]*Gelu",
        "activation quantization": r"quantize_row|precast::linear",
        "attention": r"Head<|attention|lay_keys|lay_values",
        "norms, residuals, embeddings, pooling": r"cpp_fused|precast::norm<|pool_sequences",
        "idle OpenMP threads": r"libgomp",
        "Python and other": r"",
    },
    DECODER.name: {
        "source encoder": r"/encode_source\.",
        "vocabulary projection": r"Panel<[^>]*Identity, float",
        "other linear layers": r"Panel<",
        "activation quantization": r"quantize_row|precast::linear",
        "attention over the KV cache": r"decode_attention|DecodeSequence<",
        "logits processors and sampling": r"/logits_processors\.|/sample\.|Sleef|topk",
        "norms, residuals, embeddings": r"cpp_fused|precast::norm<",
        "idle OpenMP threads": r"libgomp",
        "Python and other": r"",
    },
}
"""By model, patterns of the function or library of a sample; the first match counts."""


def group_of(sample: str, groups: Mapping[str, str]) -> str:
    """Return the group of one line of ``perf script``, which holds a function and its library."""
    return next(name for name, pattern in groups.items() if re.search(pattern, sample))


def shares(samples: Iterable[str], groups: Mapping[str, str]) -> dict[str, float]:
    """Return the share of each group in the samples."""
    counted = Counter(group_of(sample, groups) for sample in samples)
    total = counted.total() or 1
    return {name: round(counted[name] / total, 4) for name in groups}


def profile(artifact: Path, model: str, work: str, seconds: float) -> dict[str, Any]:
    """Profile a workload that is repeated in a process of its own, and return one row."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        command = [sys.executable, "-m", __spec__.name, "--run", work, str(artifact)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                while child.poll() is None and child.stdout and child.stdout.readline().strip() != READY:
                    pass
                record = ["perf", "record", "-e", "cpu-clock", "-q", "-o", data, "-p", str(child.pid)]
                subprocess.run([*record, "--", "sleep", str(seconds)], check=True, capture_output=True)
            finally:
                child.kill()
        script = subprocess.run(
            ["perf", "script", "-i", data, "-F", "ip,sym,dso"], check=True, capture_output=True, text=True
        )
    samples = (line for line in script.stdout.splitlines() if line.strip())
    return {"model": model, "work": work, "shares": shares(samples, GROUPS[model])}


def repeat_work(artifact: Path, work: str) -> None:
    """Run the profiled workload: print ``READY`` when warm, and repeat until the process is killed."""
    call = _encoding(artifact, *TEXTS[work]) if work in TEXTS else _generating(artifact, *SEARCHES[work])
    warm = time.monotonic() + WARM
    while time.monotonic() < warm:
        call()
    print(READY, flush=True)
    while True:
        call()


def _encoding(artifact: Path, kind: str, batch: int) -> Callable[[], object]:
    engine = Encoding(artifact, THREADS)
    ids = token_ids(text_tokenizer(artifact, read_manifest(artifact)), texts(kind, batch))
    return lambda: engine.embed_ids(ids)


def _generating(artifact: Path, batch: int, beams: int) -> Callable[[], object]:
    engine = Generating(artifact, THREADS)
    job = Job(measured_sources(DECODER, batch), TARGET_LENGTH, beams)
    return lambda: engine.generate(job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        work, path = options.run
        repeat_work(Path(path), work)
        return
    if shutil.which("perf") is None:
        print("skipped: profiles need perf (Debian: apt-get install linux-perf)")
        return
    encoder = minilm.artifact(options.artifacts, "int8")
    decoder = prepare(DECODER, MODELS, "inductor").artifacts["int8"]
    rows = [profile(encoder, ENCODER, work, options.seconds) for work in TEXTS]
    rows += [profile(decoder, DECODER.name, work, options.seconds) for work in SEARCHES]
    print(f"wrote {write_result('profile', {'threads': THREADS, 'rows': rows}).name}")


if __name__ == "__main__":
    main()
