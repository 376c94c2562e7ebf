"""What this project aims at on a CPU, and how near it is: ``benchmarks/results/aims.json``.

One run of this command is one occasion. The file holds all runs on one machine with the same versions, and
begins anew on another.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from precast.tools.bench import bench, minilm
from precast.tools.bench.bench_result import BenchResult, EncoderRow
from precast.tools.bench.bench_tables import after_torch
from precast.tools.bench.generation_calls import drawn_sources
from precast.tools.bench.generation_models import SHAPES, write_checkpoint
from precast.tools.bench.peers.ctranslate2_model import convert
from precast.tools.bench.peers.ctranslate2_peer import CTranslate2Generating
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.precast_artifact import Generating
from precast.tools.bench.peers.work import Generate, Work, served
from precast.tools.bench.precision import Precision, compile_as
from precast.tools.bench.results import FOLDER, described
from precast.tools.bench.turns import Turns

NAME = "aims"
OURS: tuple[Precision, ...] = ("bf16", "int8")
BASELINE = "sentence-transformers bf16"
PEERS = ("hf", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
AGREEING = ("precast bf16",)
"""Of ours, those that may meet an aim of generation. Eight bits may where their tokens agree with fp32's,
and with drawn weights they do not."""
THREADS = 2
SOURCE_LENGTH, NEW_TOKENS = 40, 64


def aim(
    what: str, peer: str, wanted: float, found: Mapping[str, float], counted: Sequence[str]
) -> dict[str, Any]:
    """An aim and what was found.

    Args:
        what: is done.
        peer: it is compared with.
        wanted: times as fast.
        found: times as fast, by contender of ours.
        counted: those whose answers are near enough to meet the aim.
    """
    ratios = {name: round(ratio, 2) for name, ratio in found.items()}
    return {"what": what, "peer": peer, "wanted": wanted, "found": ratios, "counted": list(counted)}


def encoder_aims(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """MiniLM beside everybody."""
    paths = tuple(minilm.artifact(folder, precision) for precision in OURS)
    options = bench.Options(
        paths, PEERS, str(minilm.checkpoint()), rounds=rounds, threads=THREADS, batches=(1, 32)
    )
    result = bench.run(options)
    aims = [
        aim(f"32 {kind} texts, token ids in", "best peer", 2.0, _best(result, kind, 32, "ids"), result.ours())
        for kind in ("short", "mixed", "long")
    ]
    for kind in ("short", "mixed", "long"):
        times = {row.contender: row.median_ms for row in _rows(result, kind, 32, "texts")}
        ratios = {name: times[BASELINE] / times[name] for name in result.ours()}
        aims.append(aim(f"32 {kind} texts, from strings", BASELINE, 3.0, ratios, result.ours()))
    aims.append(
        aim("1 short text, from strings", "best peer", 1.5, _best(result, "short", 1, "texts"), result.ours())
    )
    starts = {one.name: after_torch(one.cold_start_s) for one in result.contenders}
    ratios = {name: starts[BASELINE] / starts[name] for name in result.ours()}
    return [*aims, aim("cold start after importing torch", BASELINE, 3.0, ratios, result.ours())]


def decoder_aims(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A T5-small beside CTranslate2 in int8, token ids in and out."""
    shape = SHAPES[0]
    checkpoint = write_checkpoint(shape, folder / "t5-checkpoint")
    peer, converted = "CTranslate2 int8", convert(checkpoint, folder / "t5-ct2")
    engines: dict[str, Any] = {peer: partial(CTranslate2Generating, converted, "int8", THREADS)}
    for precision in OURS:
        path = folder / f"t5-{precision}.precast"
        compile_as(checkpoint, path, precision)
        engines[f"precast {precision}"] = partial(Generating, path, THREADS)
    aims = []
    makers = {name: partial(served, make, THREADS) for name, make in engines.items()}
    with Turns[Work, Any](makers, rest=0.1) as turns:
        for beams, batch, wanted in ((1, 1, 4.0), (1, 16, 4.0), (4, 1, 3.0), (4, 16, 3.0)):
            job = Job(drawn_sources(shape.vocab_size, batch, SOURCE_LENGTH), NEW_TOKENS, beams)
            taken = turns.seconds(Generate(job), rounds)
            times = {name: statistics.median(found) for name, found in taken.items()}
            ratios = {name: times[peer] / found for name, found in times.items() if name != peer}
            way = "greedy" if beams == 1 else f"{beams} beams"
            aims.append(aim(f"T5-small, {batch} x {way}", peer, wanted, ratios, AGREEING))
    return aims


def joined(before: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """The file with one more run; only that run where the ones before are of another machine or version.

    Args:
        before: what the file holds.
        run: ``machine``, ``versions``, and a single row.
    """
    if before is None or any(before[name] != run[name] for name in ("machine", "versions")):
        return dict(run)
    return {**run, "rows": [*before["rows"], *run["rows"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    found = encoder_aims(options.artifacts, options.rounds)
    found += decoder_aims(options.artifacts, options.rounds)
    recorded = datetime.now(UTC).isoformat(timespec="minutes")
    row = {"recorded": recorded, "rounds": options.rounds, "aims": found}
    path = FOLDER / f"{NAME}.json"
    before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    path.write_text(
        json.dumps(joined(before, described(NAME, {"threads": THREADS, "rows": [row]})), indent=2) + "\n",
        "utf-8",
    )
    print(f"wrote {path.name}")


def _rows(result: BenchResult, kind: str, batch: int, source: str) -> list[EncoderRow]:
    return [
        row for row in result.encoder_rows() if (row.texts, row.batch, row.input) == (kind, batch, source)
    ]


def _best(result: BenchResult, kind: str, batch: int, source: str) -> dict[str, float]:
    """Of ours against the best peer whose answers are near enough."""
    rows = _rows(result, kind, batch, source)
    return {row.contender: row.times_best_peer or 0.0 for row in rows if row.contender in result.ours()}


if __name__ == "__main__":
    main()
