"""Requests of many lengths through one engine: joined while others run, beside groups that wait for their
longest.

``in flight`` submits each request when it arrives. ``groups of N`` takes what has arrived, at most ``N`` in
the order of arrival, and takes the next group when the whole one is done.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import precast


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        source: token ids.
        new_tokens: forced.
    """

    source: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """Requests and how they come.

    Attributes:
        requests: in the order of arrival.
        arrivals: seconds from the start, never falling, one for each request.
        group: how many are batched and waited for together; None to let them join in flight.
    """

    requests: tuple[Request, ...]
    arrivals: tuple[float, ...]
    group: int | None


@dataclass(frozen=True)
class Served:
    """What became of a load.

    Attributes:
        seconds: from the start to the last answer.
        latencies: seconds from each request's arrival to its answer.
        tokens: generated.
    """

    seconds: float
    latencies: tuple[float, ...]
    tokens: int


LONGEST_SOURCE, LONGEST_TARGET = 60, 64
_SHORTEST_SOURCE, _SHORTEST_TARGET = 5, 8


def draw_requests(
    count: int, vocab_size: int, seed: int = 0, source: int = LONGEST_SOURCE, target: int = LONGEST_TARGET
) -> tuple[Request, ...]:
    """Sources of 5 to 60 tokens, targets of 8 to 64, or less where an artifact takes no more.

    Args:
        count: of requests.
        vocab_size: token ids are from 3 up, below its last.
        seed: of the drawing.
        source: tokens of the longest source.
        target: tokens of the longest target.
    """
    draw = random.Random(seed)

    def length(shortest: int, longest: int) -> int:
        return draw.randint(min(shortest, longest), longest)

    return tuple(
        Request(
            tuple(draw.randrange(3, vocab_size - 1) for _ in range(length(_SHORTEST_SOURCE, source))),
            length(_SHORTEST_TARGET, target),
        )
        for _ in range(count)
    )


def poisson(count: int, rate: float, seed: int = 0) -> tuple[float, ...]:
    """Arrival times in seconds, ``rate`` a second on average; the first one comes at once."""
    draw, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        times.append(now)
        now += draw.expovariate(rate)
    return tuple(times)


def server(artifact: Path, threads: int, steps_per_sync: int | None = None) -> Callable[[Load], Served]:
    """One engine that serves loads in either way.

    Args:
        artifact: its folder.
        threads: of its kernels.
        steps_per_sync: as ``precast.load`` takes it; its default where left out.
    """
    engine = precast.Seq2Seq.load(artifact, num_threads=threads, steps_per_sync=steps_per_sync)

    def submit(request: Request) -> Future[Any]:
        found: Future[Any] = engine.submit(
            list(request.source), min_new_tokens=request.new_tokens, max_new_tokens=request.new_tokens
        )
        return found

    return lambda load: _serve_all(load, submit)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _serve_all(load: Load, submit: Callable[[Request], Future[Any]]) -> Served:
    """Latencies count from the planned arrival, so that one noticed late is not flattered."""
    ended = [0.0] * len(load.requests)

    def start(place: int) -> Future[Any]:
        future = submit(load.requests[place])
        future.add_done_callback(lambda _: ended.__setitem__(place, time.perf_counter() - started))
        return future

    futures: list[Future[Any]] = []
    started = time.perf_counter()
    while len(futures) < len(load.requests):
        _sleep_until(started + load.arrivals[len(futures)])
        arrived = _arrived(load, len(futures), time.perf_counter() - started)
        futures += [start(place) for place in arrived]
        if load.group is not None:
            wait(futures)
    # A result is there a moment before its callback has run: the callbacks say when all is over.
    tokens = sum(len(future.result().token_ids) - 1 for future in futures)
    while not all(ended):
        time.sleep(0.001)
    latencies = tuple(end - arrival for end, arrival in zip(ended, load.arrivals, strict=True))
    return Served(max(ended), latencies, tokens)


def _arrived(load: Load, first: int, now: float) -> range:
    """Places from ``first`` on that have arrived, at least one, at most a group."""
    end = first + 1
    limit = len(load.requests) if load.group is None else min(len(load.requests), first + load.group)
    while end < limit and load.arrivals[end] <= now:
        end += 1
    return range(first, end)


def _sleep_until(moment: float) -> None:
    left = moment - time.perf_counter()
    if left > 0:
        time.sleep(left)
