"""Mixed-length requests that arrive simultaneously or as a stream, and the effect of ``steps_per_sync``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from precast.artifacts.reader import read_manifest
from precast.graphs.seq2seq import GenerateLimits
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.ragged import (
    LONGEST_SOURCE,
    LONGEST_TARGET,
    Load,
    Request,
    Served,
    percentile,
    poisson,
    random_requests,
    server,
)

GROUP = 16
SATURATION = 0.7
"""Rate of the stream, as a share of the throughput of continuous batching with simultaneous arrivals."""
STEPS_PER_SYNC = (1, 2, 4, 8)
CONTINUOUS = "continuous batching"
_ENGINE = "engine"


def measure_load(artifact: Path, vocab_size: int, *, count: int, rounds: int, threads: int) -> dict[str, Any]:
    """Measure each arrival pattern with each way of batching, in interleaved rounds.

    Args:
        artifact: directory of an artifact that generates.
        vocab_size: size of the source vocabulary.
        count: number of requests.
        rounds: number of measured rounds, after a warmup round.
        threads: threads of the engine.

    Returns:
        JSON: ``requests``, ``saturation_requests_per_s``, ``stream_requests_per_s`` and ``rows``.
    """
    requests = _requests(artifact, vocab_size, count)
    ways = _ways(artifact)
    with InterleavedProcesses[Load, Served]({_ENGINE: partial(server, artifact, threads)}) as engine:
        simultaneous = _rounds(engine, requests, (0.0,) * count, ways, rounds)
        saturation = count / statistics.median(served.seconds for served in simultaneous[CONTINUOUS])
        rate = SATURATION * saturation
        stream = _rounds(engine, requests, poisson(count, rate), ways, rounds)
    return {
        "requests": count,
        "rounds": rounds,
        "saturation_requests_per_s": round(saturation, 2),
        "stream_requests_per_s": round(rate, 2),
        "rows": [*_rows("simultaneous", simultaneous), *_rows("stream", stream)],
    }


def measure_steps_per_sync(
    artifact: Path, vocab_size: int, *, count: int, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Return one row for each ``steps_per_sync``: the same requests with simultaneous arrivals.

    Args:
        artifact: directory of an artifact that generates.
        vocab_size: size of the source vocabulary.
        count: number of requests.
        rounds: number of measured rounds, after a warmup round.
        threads: threads of each engine.
    """
    load = Load(_requests(artifact, vocab_size, count), (0.0,) * count, None)
    makers = {str(steps): partial(server, artifact, threads, steps) for steps in STEPS_PER_SYNC}
    with InterleavedProcesses[Load, Served](makers) as engines:
        engines.outputs(load)
        measured = [engines.outputs(load) for _ in range(rounds)]
    return [
        {"steps_per_sync": int(steps), **_medians([served[steps] for served in measured])} for steps in makers
    ]


def _requests(artifact: Path, vocab_size: int, count: int) -> tuple[Request, ...]:
    """Return random requests within the limits of the artifact, whose targets include a start token."""
    limits = read_manifest(artifact).limits
    assert isinstance(limits, GenerateLimits)
    return random_requests(
        count,
        vocab_size,
        source=min(LONGEST_SOURCE, limits.max_source_length),
        target=min(LONGEST_TARGET, limits.max_target_length - 1),
    )


def _ways(artifact: Path) -> dict[str, int | None]:
    """Return the ways of batching; one has batches as large as the engine's own, for a fair comparison."""
    limits = read_manifest(artifact).limits
    assert isinstance(limits, GenerateLimits)
    groups = {f"static batches of {size}": size for size in (GROUP, limits.max_num_seqs)}
    return {CONTINUOUS: None, **groups}


def _rounds(
    engine: InterleavedProcesses[Load, Served],
    requests: tuple[Request, ...],
    arrivals: tuple[float, ...],
    ways: Mapping[str, int | None],
    rounds: int,
) -> dict[str, list[Served]]:
    measured: dict[str, list[Served]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, group in ways.items():
            served = engine.outputs(Load(requests, arrivals, group))[_ENGINE]
            if number:
                measured[way].append(served)
    return measured


def _rows(arrival: str, measured: Mapping[str, Sequence[Served]]) -> list[dict[str, Any]]:
    """Return one row for each way of batching, with medians over all rounds."""
    base = statistics.median(served.seconds for served in measured[f"static batches of {GROUP}"])
    return [
        {
            "arrival": arrival,
            "batching": way,
            "speedup_vs_static": round(base / statistics.median(one.seconds for one in served), 2),
            **_medians(served),
        }
        for way, served in measured.items()
    ]


def _medians(rounds: Sequence[Served]) -> dict[str, float]:
    return {
        "tokens_per_s": round(statistics.median(one.tokens / one.seconds for one in rounds), 1),
        **{
            f"p{share}_s": round(
                statistics.median(percentile(one.latencies, share / 100) for one in rounds), 3
            )
            for share in (50, 95)
        },
    }
