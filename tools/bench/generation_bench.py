"""``precast bench`` for encoder-decoders."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from typing import Any

from precast.graphs.seq2seq import GenerateLimits
from precast.tools.bench.bench_result import Arrival, GenerationRow
from precast.tools.bench.comparison import Compared
from precast.tools.bench.generation_calls import measure_call
from precast.tools.bench.generation_load import measure_load
from precast.tools.bench.generation_models import random_sources
from precast.tools.bench.interleave import InterleavedProcesses
from precast.tools.bench.peers.contender import REFERENCE
from precast.tools.bench.peers.jobs import Job
from precast.tools.bench.peers.work import FirstToken, Work
from precast.tools.bench.ratios import ratios
from precast.tools.bench.results import summary

BATCHES = (1, 16)
BEAMS = (1, 4)
SOURCE_LENGTH = 40
NEW_TOKENS = 64
REQUESTS = 100
"""Number of mixed-length requests."""
_FIRST_TOKENS = 4


def first_job(compared: Sequence[Compared]) -> Job:
    """Return the call that measures a cold start: a few tokens."""
    return job(compared, 1, 1, _FIRST_TOKENS)


def job(compared: Sequence[Compared], batch: int, beams: int, new_tokens: int = NEW_TOKENS) -> Job:
    """Return a call with random sources and with lengths within the limits of every artifact."""
    limits = [_limits(one) for one in compared]
    source = min(SOURCE_LENGTH, *(one.max_source_length for one in limits))
    target = min(new_tokens, *(one.max_target_length - 1 for one in limits))
    vocabulary = compared[0].manifest.model.vocab_size
    return Job(random_sources(vocabulary, batch, source), target, beams)


def figures(
    processes: InterleavedProcesses[Work, Any],
    compared: Sequence[Compared],
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return ``rows``, empty ``texts``, and ``once`` with the facts of each contender."""
    ours = [one.name for one in compared]
    rows: list[GenerationRow] = []
    for beams in _beams(compared):
        for batch in BATCHES:
            say(f"batch {batch}, {'greedy' if beams == 1 else f'{beams} beams'}")
            rows += measure(processes, job(compared, batch, beams), rounds, ours)
    first = _first_tokens(processes, job(compared, 1, 1), rounds)
    return {
        "texts": [],
        "rows": [row.model_dump() for row in rows],
        "once": {name: {"tokenization_ms": {}, "first_token_ms": value} for name, value in first.items()},
    }


def measure(
    processes: InterleavedProcesses[Work, Any], call: Job, rounds: int, ours: Collection[str]
) -> list[GenerationRow]:
    """Return one row for each contender."""
    calls = measure_call(processes, call, rounds, REFERENCE)
    speedups = ratios({name: measured.median for name, measured in calls.items()}, ours)
    return [
        GenerationRow(
            contender=name,
            batch=len(call.sources),
            beams=call.beams,
            **summary(measured.seconds),
            tokens_per_s=measured.tokens_per_s,
            token_agreement=measured.token_agreement,
            **speedups[name],
        )
        for name, measured in calls.items()
    ]


def arrivals(
    compared: Sequence[Compared], rounds: int, threads: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the throughput and latency of each artifact for mixed-length requests."""
    rows = []
    for one in compared:
        say(f"{one.name}: mixed-length requests")
        vocabulary = one.manifest.model.vocab_size
        found = measure_load(one.path, vocabulary, count=REQUESTS, rounds=rounds, threads=threads)
        rows += [
            Arrival(
                contender=one.name,
                **{name: row[name] for name in ("arrival", "batching", "tokens_per_s", "p50_s", "p95_s")},
            ).model_dump()
            for row in found["rows"]
        ]
    return rows


def _first_tokens(
    processes: InterleavedProcesses[Work, Any], call: Job, rounds: int
) -> dict[str, float | None]:
    """Return median milliseconds, measured by the engines: their output arrives after the last token."""
    processes.outputs(FirstToken(call))
    taken = [processes.outputs(FirstToken(call)) for _ in range(rounds)]
    return {
        name: None if value is None else round(statistics.median(found[name] for found in taken) * 1e3, 3)
        for name, value in taken[0].items()
    }


def _beams(compared: Sequence[Compared]) -> list[int]:
    """Return the numbers of beams that the artifacts have sequences for."""
    sequences = min(_limits(one).max_num_seqs for one in compared)
    return [beams for beams in BEAMS if beams <= sequences]


def _limits(one: Compared) -> GenerateLimits:
    assert isinstance(one.manifest.limits, GenerateLimits)
    return one.manifest.limits
