"""Whether eight bits gain speed here: the same model with and without them, asked in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from precast.artifacts.manifest import GenerateInfo
from precast.compiler.buckets.profile import EXAMPLE_LENGTH
from precast.compiler.errors import SpeedCheckError
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.encoder.engine import Encoder
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.parameters import resolve
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens

COUNTS = (1, 32)
"""Inputs that are asked for together."""
VISITS = 3
"""Times that each engine is opened. Both at once would wait for each other's threads."""
BUDGET = 0.5
"""Seconds that the calls of one count may take in a visit; there are two at least, and the first is no
measurement."""
_NEW_TOKENS = 16

Speedup: TypeAlias = Mapping[int, float]
"""Times as fast, by how many inputs come together."""
Open: TypeAlias = Callable[[], AbstractContextManager[Any]]
Ask: TypeAlias = Callable[[Any, int], object]


def measure_speedup(
    plain: Open, quantized: Open, ask: Ask, *, clock: Callable[[], float] = time.perf_counter
) -> Speedup:
    """How many times as fast one engine answers as the other, by their least times.

    Args:
        plain: opens the engine of the model as it is.
        quantized: opens the one that should be faster.
        ask: an engine for the answers to so many inputs.
        clock: gives seconds.
    """
    times: dict[tuple[Open, int], float] = {}
    for _ in range(VISITS):
        for open_engine in (plain, quantized):
            with open_engine() as engine:
                for count in COUNTS:
                    found = _least(partial(ask, engine, count), clock)
                    times[open_engine, count] = min(found, times.get((open_engine, count), math.inf))
    return {count: times[plain, count] / times[quantized, count] for count in COUNTS}


def _least(call: Callable[[], object], clock: Callable[[], float]) -> float:
    call()
    least, began = math.inf, clock()
    while math.isinf(least) or clock() - began < BUDGET:
        start = clock()
        call()
        least = min(least, clock() - start)
    return least


def described(gain: Speedup, dtype: str) -> str:
    """The gain, for people.

    Raises:
        SpeedCheckError: there is none, taken over all counts.
    """
    counts = " and ".join(f"{times:.2f} times for {count}" for count, times in gain.items())
    said = f"speed of eight bits on this machine, beside {dtype}, by inputs that come together: {counts}"
    if statistics.geometric_mean(gain.values()) <= 1:
        raise SpeedCheckError(
            f"{said}; nothing was written. Leave quantize out, or keep the smaller artifact all the same "
            f"with --no-check-speed"
        )
    return said


def ask_encoder(engine: Encoder, count: int) -> list[EncoderOutput]:
    """Encode so many inputs."""
    longest = engine.manifest.limits.max_length
    return engine.encode(_inputs(count, min(longest, EXAMPLE_LENGTH), engine.manifest.model.vocab_size))


def ask_seq2seq(engine: Seq2Seq, count: int) -> list[GenerateOutput]:
    """Greedy answers of a fixed length to so many sources."""
    manifest = engine.manifest
    assert isinstance(manifest.output, GenerateInfo) and isinstance(manifest.limits, GenerateLimits)
    limits = manifest.limits
    sources = _inputs(count, min(limits.max_source_length, EXAMPLE_LENGTH), manifest.model.vocab_size)
    start = resolve(manifest.output.defaults, limits, manifest.output.vocab_size, {}, None).prefix
    length = min(len(start) + _NEW_TOKENS, limits.max_target_length)
    plan = SamplingParams("greedy", 1, 1, start, length, eos_token_ids=())
    requests = [Request(Tokens(np.array(one, np.int32), None), plan) for one in sources]
    return [future.result() for future in engine.queue(requests)]


def _inputs(count: int, length: int, vocab_size: int) -> Sequence[list[int]]:
    return np.random.default_rng(0).integers(0, vocab_size, (count, length)).tolist()
