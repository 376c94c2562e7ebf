"""What this project aims at on a CPU, and how near it is: ``benchmarks/results/aims.json``.

One run of this command is one occasion. The file holds all runs on one machine with the same versions and
models, and begins anew on another.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from precast.tools.bench import bench, minilm
from precast.tools.bench.bench_result import BenchResult, EncoderRow
from precast.tools.bench.bench_tables import after_torch
from precast.tools.bench.generation import REFERENCE, makers, prepare
from precast.tools.bench.generation_calls import measure_call
from precast.tools.bench.generation_models import MODELS, SHAPES, measured_sources
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.work import Work
from precast.tools.bench.precision import Precision
from precast.tools.bench.results import FOLDER, described
from precast.tools.bench.sorting import TARGET_LENGTH
from precast.tools.bench.turns import Turns

NAME = "aims"
OURS: tuple[Precision, ...] = ("bf16", "int8")
BASELINE = "sentence-transformers bf16"
ENCODER, DECODER = "all-MiniLM-L6-v2", SHAPES[0]
GENERATION_PEER = "CTranslate2 int8"
SEARCHES = ((1, 1, 4.0), (1, 16, 4.0), (4, 1, 3.0), (4, 16, 3.0))
"""Beams, sources of a call, and times as fast as the peer."""
PEERS = ("hf", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
LEAST_EQUAL_TOKENS = 0.99
"""The share of HF fp32's tokens that a contender of ours must give for its speed to meet an aim."""
THREADS = 2


def aim(
    what: str,
    peer: str,
    wanted: float,
    found: Mapping[str, float],
    counted: Sequence[str],
    equal_tokens: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """An aim and what was found.

    Args:
        what: is done.
        peer: it is compared with.
        wanted: times as fast.
        found: times as fast, by contender of ours.
        counted: those whose answers are near enough to meet the aim.
        equal_tokens: of generation, the share of HF fp32's tokens that each contender gave.
    """
    ratios = {name: round(ratio, 2) for name, ratio in found.items()}
    said = {"what": what, "peer": peer, "wanted": wanted, "found": ratios, "counted": list(counted)}
    return said if equal_tokens is None else {**said, "equal_tokens": dict(equal_tokens)}


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


def decoder_aims(rounds: int) -> list[dict[str, Any]]:
    """A trained T5-small beside CTranslate2 in int8, token ids in and out."""
    everybody = makers(prepare(DECODER, MODELS, "inductor"), THREADS)
    ours = [f"precast {precision}" for precision in OURS]
    chosen = {name: everybody[name] for name in (*ours, GENERATION_PEER, REFERENCE)}
    aims = []
    with Turns[Work, Any](chosen, rest=0.1) as turns:
        for beams, batch, wanted in SEARCHES:
            job = Job(measured_sources(DECODER, batch), TARGET_LENGTH, beams)
            found = measure_call(turns, job, rounds, REFERENCE)
            ratios = {name: found[GENERATION_PEER].median / found[name].median for name in ours}
            equal = {name: one.equal_tokens for name, one in found.items() if name != REFERENCE}
            counted = [name for name in ours if equal[name] >= LEAST_EQUAL_TOKENS]
            way = "greedy" if beams == 1 else f"{beams} beams"
            what = f"{DECODER.name}, {batch} x {way}"
            aims.append(aim(what, GENERATION_PEER, wanted, ratios, counted, equal))
    return aims


def joined(before: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """The file with one more run; only that run where the ones before are of other machines or models.

    Args:
        before: what the file holds.
        run: ``machine``, ``versions``, ``models``, and a single row.
    """
    if before is None or any(before.get(name) != run[name] for name in ("machine", "versions", "models")):
        return dict(run)
    return {**run, "rows": [*before["rows"], *run["rows"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    found = encoder_aims(options.artifacts, options.rounds)
    found += decoder_aims(options.rounds)
    recorded = datetime.now(UTC).isoformat(timespec="minutes")
    row = {"recorded": recorded, "rounds": options.rounds, "aims": found}
    models = {"encoder": ENCODER, "decoder": asdict(DECODER)}
    run = described(NAME, {"threads": THREADS, "models": models, "rows": [row]})
    path = FOLDER / f"{NAME}.json"
    before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    path.write_text(json.dumps(joined(before, run), indent=2) + "\n", "utf-8")
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
