"""Requests that arrive all at once, and as a stream below saturation, through one engine; and how many steps
it had best take between its looks at what has ended and arrived."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from precast.artifacts.reader import read_manifest
from precast.graphs.seq2seq import GenerateLimits
from precast.tools.bench.ragged import (
    LONGEST_SOURCE,
    LONGEST_TARGET,
    Load,
    Request,
    Served,
    random_requests,
    percentile,
    poisson,
    server,
)
from precast.tools.bench.interleave import InterleavedProcesses

GROUP = 16
SATURATION = 0.7
"""The stream's rate, as a part of the requests a second that are served in flight when all are there."""
STEPS_PER_SYNC = (1, 2, 4, 8)
_ENGINE = "engine"


def measure_load(artifact: Path, vocab_size: int, *, count: int, rounds: int, threads: int) -> dict[str, Any]:
    """A row for each kind of arrival and way to serve; the ways take turns.

    Args:
        artifact: that generates.
        vocab_size: of its sources.
        count: of requests.
        rounds: of which medians count, after one that does not.
        threads: of the engine.

    Returns:
        JSON: ``requests``, ``saturation_requests_per_s``, ``stream_requests_per_s`` and ``rows``.
    """
    requests = _requests(artifact, vocab_size, count)
    ways = _ways(artifact)
    with InterleavedProcesses[Load, Served]({_ENGINE: partial(server, artifact, threads)}) as engine:
        at_once = _rounds(engine, requests, (0.0,) * count, ways, rounds)
        saturation = count / statistics.median(served.seconds for served in at_once["in flight"])
        rate = SATURATION * saturation
        stream = _rounds(engine, requests, poisson(count, rate), ways, rounds)
    return {
        "requests": count,
        "rounds": rounds,
        "saturation_requests_per_s": round(saturation, 2),
        "stream_requests_per_s": round(rate, 2),
        "rows": [*_rows("all at once", at_once), *_rows("stream", stream)],
    }


def measure_steps_per_sync(
    artifact: Path, vocab_size: int, *, count: int, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """A row for each number of steps between looks: the same requests, all there at once.

    Args:
        artifact: that generates.
        vocab_size: of its sources.
        count: of requests.
        rounds: of which medians count, after one that does not.
        threads: of each engine.
    """
    load = Load(_requests(artifact, vocab_size, count), (0.0,) * count, None)
    makers = {str(steps): partial(server, artifact, threads, steps) for steps in STEPS_PER_SYNC}
    with InterleavedProcesses[Load, Served](makers) as engines:
        engines.outputs(load)
        found = [engines.outputs(load) for _ in range(rounds)]
    return [
        {"steps_per_sync": int(steps), **_medians([served[steps] for served in found])} for steps in makers
    ]


def _requests(artifact: Path, vocab_size: int, count: int) -> tuple[Request, ...]:
    """None longer than the artifact takes; a target has its start token besides."""
    limits = read_manifest(artifact).limits
    assert isinstance(limits, GenerateLimits)
    return random_requests(
        count,
        vocab_size,
        source=min(LONGEST_SOURCE, limits.max_source_length),
        target=min(LONGEST_TARGET, limits.max_target_length - 1),
    )


def _ways(artifact: Path) -> dict[str, int | None]:
    """Groups as large as the engine's own number of rows too: size alone must not decide."""
    limits = read_manifest(artifact).limits
    assert isinstance(limits, GenerateLimits)
    groups = {f"groups of {size}": size for size in (GROUP, limits.max_num_seqs)}
    return {"in flight": None, **groups}


def _rounds(
    engine: InterleavedProcesses[Load, Served],
    requests: tuple[Request, ...],
    arrivals: tuple[float, ...],
    ways: Mapping[str, int | None],
    rounds: int,
) -> dict[str, list[Served]]:
    found: dict[str, list[Served]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, group in ways.items():
            served = engine.outputs(Load(requests, arrivals, group))[_ENGINE]
            if number:
                found[way].append(served)
    return found


def _rows(arrival: str, found: Mapping[str, Sequence[Served]]) -> list[dict[str, Any]]:
    """Medians over the rounds of each round's figures."""
    base = statistics.median(served.seconds for served in found[f"groups of {GROUP}"])
    return [
        {
            "arrival": arrival,
            "way": way,
            "speedup_vs_static": round(base / statistics.median(one.seconds for one in served), 2),
            **_medians(served),
        }
        for way, served in found.items()
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
