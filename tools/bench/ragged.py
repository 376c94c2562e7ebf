"""Mixed-length requests through one engine: continuous batching compared with static batches.

``continuous batching`` submits each request when it arrives. ``static batches of N`` submits the requests
that have arrived, at most ``N`` in order of arrival, and waits for all of them before it submits the next
batch.
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
        source: token ids of the source.
        new_tokens: number of tokens to generate, neither fewer nor more.
    """

    source: tuple[int, ...]
    new_tokens: int


@dataclass(frozen=True)
class Load:
    """Requests with their arrival times and the way to batch them.

    Attributes:
        requests: requests in order of arrival.
        arrivals: ascending arrival times in seconds from the start, one for each request.
        group: size of a static batch; None for continuous batching.
    """

    requests: tuple[Request, ...]
    arrivals: tuple[float, ...]
    group: int | None


@dataclass(frozen=True)
class Served:
    """The figures of a load that was served.

    Attributes:
        seconds: seconds from the start to the last output.
        latencies: seconds from the arrival of each request to its output.
        tokens: number of generated tokens.
    """

    seconds: float
    latencies: tuple[float, ...]
    tokens: int


LONGEST_SOURCE, LONGEST_TARGET = 60, 64
_SHORTEST_SOURCE, _SHORTEST_TARGET = 5, 8


def random_requests(
    count: int, vocab_size: int, seed: int = 0, source: int = LONGEST_SOURCE, target: int = LONGEST_TARGET
) -> tuple[Request, ...]:
    """Return random requests with sources of 5 to 60 tokens and targets of 8 to 64.

    Args:
        count: number of requests.
        vocab_size: size of the vocabulary; token ids are at least 3 and below the last one.
        seed: seed of the random generator.
        source: tokens of the longest source, if the artifact takes fewer than 60.
        target: tokens of the longest target, if the artifact takes fewer than 64.
    """
    rng = random.Random(seed)

    def length(shortest: int, longest: int) -> int:
        return rng.randint(min(shortest, longest), longest)

    return tuple(
        Request(
            tuple(rng.randrange(3, vocab_size - 1) for _ in range(length(_SHORTEST_SOURCE, source))),
            length(_SHORTEST_TARGET, target),
        )
        for _ in range(count)
    )


def poisson(count: int, rate: float, seed: int = 0) -> tuple[float, ...]:
    """Return arrival times of a Poisson process with ``rate`` requests per second, starting at 0."""
    rng, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return tuple(times)


def server(artifact: Path, threads: int, steps_per_sync: int | None = None) -> Callable[[Load], Served]:
    """Load an artifact and return a function that serves a load.

    Args:
        artifact: directory of the artifact.
        threads: threads of its kernels.
        steps_per_sync: option of ``precast.load``; None for its default.
    """
    engine = precast.Seq2Seq.load(artifact, num_threads=threads, steps_per_sync=steps_per_sync)

    def submit(request: Request) -> Future[Any]:
        future: Future[Any] = engine.submit(
            list(request.source), min_new_tokens=request.new_tokens, max_new_tokens=request.new_tokens
        )
        return future

    return lambda load: _serve_all(load, submit)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _serve_all(load: Load, submit: Callable[[Request], Future[Any]]) -> Served:
    """Serve a load. Latencies count from the planned arrival, even if a request is submitted late."""
    ended = [0.0] * len(load.requests)

    def start(index: int) -> Future[Any]:
        future = submit(load.requests[index])
        future.add_done_callback(lambda _: ended.__setitem__(index, time.perf_counter() - started))
        return future

    futures: list[Future[Any]] = []
    started = time.perf_counter()
    while len(futures) < len(load.requests):
        _sleep_until(started + load.arrivals[len(futures)])
        arrived = _arrived(load, len(futures), time.perf_counter() - started)
        futures += [start(index) for index in arrived]
        if load.group is not None:
            wait(futures)
    # A result is available shortly before its callback has run, so wait for the callbacks.
    tokens = sum(len(future.result().token_ids) - 1 for future in futures)
    while not all(ended):
        time.sleep(0.001)
    latencies = tuple(end - arrival for end, arrival in zip(ended, load.arrivals, strict=True))
    return Served(max(ended), latencies, tokens)


def _arrived(load: Load, first: int, now: float) -> range:
    """Return the indices from ``first`` that have arrived: at least one, at most a batch."""
    end = first + 1
    limit = len(load.requests) if load.group is None else min(len(load.requests), first + load.group)
    while end < limit and load.arrivals[end] <= now:
        end += 1
    return range(first, end)


def _sleep_until(moment: float) -> None:
    left = moment - time.perf_counter()
    if left > 0:
        time.sleep(left)
