"""The performance aims on a CPU and how far they are met: ``benchmarks/results/aims.json``.

Each run of this command appends one row. The file holds all runs with the same machine, versions and models,
and starts over on any change.
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
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.work import Work
from precast.tools.bench.precision import Precision
from precast.tools.bench.results import FOLDER, described
from precast.tools.bench.sorting import TARGET_LENGTH

NAME = "aims"
OURS: tuple[Precision, ...] = ("bf16", "int8")
BASELINE = "sentence-transformers bf16"
ENCODER, DECODER = "all-MiniLM-L6-v2", SHAPES[0]
GENERATION_PEER = "CTranslate2 int8"
SEARCHES = ((1, 1, 4.0), (1, 16, 4.0), (4, 1, 3.0), (4, 16, 3.0))
"""Beams, batch size, and the speedup to reach."""
PEERS = ("hf", "sentence-transformers", "onnxruntime", "openvino", "ctranslate2")
MIN_TOKEN_AGREEMENT = 0.99
"""Token agreement with HF fp32 below which an artifact's speed does not count."""
THREADS = 2


def make_aim(
    name: str,
    peer: str,
    aim: float,
    speedup: Mapping[str, float],
    eligible: Sequence[str],
    token_agreement: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return one aim with its measured speedups, as JSON.

    Args:
        name: the workload.
        peer: the contender that the speedups refer to.
        aim: the speedup to reach.
        speedup: measured speedups, by precast artifact.
        eligible: artifacts whose outputs are accurate enough to meet the aim.
        token_agreement: for generation, the share of tokens equal to HF fp32, by contender.
    """
    speedups = {artifact: round(ratio, 2) for artifact, ratio in speedup.items()}
    content = {"name": name, "peer": peer, "aim": aim, "speedup": speedups, "eligible": list(eligible)}
    return content if token_agreement is None else {**content, "token_agreement": dict(token_agreement)}


def encoder_aims(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure MiniLM against all peers."""
    paths = tuple(minilm.artifact(folder, precision) for precision in OURS)
    options = bench.Options(
        paths, PEERS, str(minilm.checkpoint()), rounds=rounds, threads=THREADS, batches=(1, 32)
    )
    result = bench.run(options)
    ours = result.ours()
    aims = [
        make_aim(f"32 {kind} texts, token ids in", "best peer", 2.0, _vs_best(result, kind, 32, "ids"), ours)
        for kind in ("short", "mixed", "long")
    ]
    for kind in ("short", "mixed", "long"):
        times = {row.contender: row.median_ms for row in _rows(result, kind, 32, "texts")}
        speedups = {name: times[BASELINE] / times[name] for name in ours}
        aims.append(make_aim(f"32 {kind} texts, from strings", BASELINE, 3.0, speedups, ours))
    aims.append(
        make_aim("1 short text, from strings", "best peer", 1.5, _vs_best(result, "short", 1, "texts"), ours)
    )
    starts = {one.name: after_torch(one.cold_start_s) for one in result.contenders}
    speedups = {name: starts[BASELINE] / starts[name] for name in ours}
    return [*aims, make_aim("cold start after importing torch", BASELINE, 3.0, speedups, ours)]


def decoder_aims(rounds: int) -> list[dict[str, Any]]:
    """Measure a trained T5-small against CTranslate2 int8, token ids in and out."""
    contenders = makers(prepare(DECODER, MODELS, "inductor"), THREADS)
    ours = [f"precast {precision}" for precision in OURS]
    selected = {name: contenders[name] for name in (*ours, GENERATION_PEER, REFERENCE)}
    aims = []
    with InterleavedProcesses[Work, Any](selected, rest=0.1) as processes:
        for beams, batch, aim in SEARCHES:
            job = Job(measured_sources(DECODER, batch), TARGET_LENGTH, beams)
            calls = measure_call(processes, job, rounds, REFERENCE)
            speedups = {name: calls[GENERATION_PEER].median / calls[name].median for name in ours}
            agreement = {name: call.token_agreement for name, call in calls.items() if name != REFERENCE}
            eligible = [name for name in ours if agreement[name] >= MIN_TOKEN_AGREEMENT]
            search = "greedy" if beams == 1 else f"{beams} beams"
            workload = f"{DECODER.name}, {batch} x {search}"
            aims.append(make_aim(workload, GENERATION_PEER, aim, speedups, eligible, agreement))
    return aims


def append_run(before: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file's content with one more run, or with that run alone if anything else changed.

    Args:
        before: the content of the file; None if there is none.
        run: content with ``machine``, ``versions``, ``models`` and a single row.
    """
    if before is None or any(before.get(name) != run[name] for name in ("machine", "versions", "models")):
        return dict(run)
    return {**run, "rows": [*before["rows"], *run["rows"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--artifacts", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    aims = encoder_aims(options.artifacts, options.rounds)
    aims += decoder_aims(options.rounds)
    recorded = datetime.now(UTC).isoformat(timespec="minutes")
    row = {"recorded": recorded, "rounds": options.rounds, "aims": aims}
    models = {"encoder": ENCODER, "decoder": asdict(DECODER)}
    run = described(NAME, {"threads": THREADS, "models": models, "rows": [row]})
    path = FOLDER / f"{NAME}.json"
    before = json.loads(path.read_text("utf-8")) if path.is_file() else None
    path.write_text(json.dumps(append_run(before, run), indent=2) + "\n", "utf-8")
    print(f"wrote {path.name}")


def _rows(result: BenchResult, kind: str, batch: int, source: str) -> list[EncoderRow]:
    return [
        row for row in result.encoder_rows() if (row.texts, row.batch, row.input) == (kind, batch, source)
    ]


def _vs_best(result: BenchResult, kind: str, batch: int, source: str) -> dict[str, float]:
    """Return the speedup of each precast artifact over the best accurate peer."""
    rows = _rows(result, kind, batch, source)
    return {row.contender: row.speedup_vs_best_peer or 0.0 for row in rows if row.contender in result.ours()}


if __name__ == "__main__":
    main()
