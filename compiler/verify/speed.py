"""Measures whether a quantized model is faster on this machine, by interleaved runs of both models."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from precast.compiler.buckets.profile import EXAMPLE_LENGTH
from precast.compiler.errors import SpeedCheckError
from precast.runtime.encoder.engine import Encoder
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from precast.runtime.io.outputs import EncoderOutput
from precast.runtime.io.tokens import Tokens

COUNTS = (1, 32)
"""Numbers of simultaneous inputs."""
VISITS = 3
"""How often each engine is opened, one at a time: threads of two open engines would disturb each other."""
BUDGET = 0.5
"""Seconds for the calls with one number of inputs per visit; at least two calls, the first untimed."""
_NEW_TOKENS = 16

Speedup: TypeAlias = Mapping[int, float]
"""Speed of the quantized model relative to the unquantized one, by the number of simultaneous inputs."""
Open: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Opens an engine."""
Run: TypeAlias = Callable[[Any, int], object]
"""Runs a number of inputs through an engine."""


def measure_speedup(
    plain: Open, quantized: Open, run: Run, *, clock: Callable[[], float] = time.perf_counter
) -> Speedup:
    """Return the speed of a quantized model relative to the unquantized one, from the shortest times of both.

    Args:
        plain: Opens the engine of the unquantized model.
        quantized: Opens the engine of the quantized model.
        run: Runs a number of inputs through an engine.
        clock: Returns the time in seconds.
    """
    times: dict[tuple[Open, int], float] = {}
    for _ in range(VISITS):
        for open_engine in (plain, quantized):
            with open_engine() as engine:
                for count in COUNTS:
                    shortest = _shortest(partial(run, engine, count), clock)
                    times[open_engine, count] = min(shortest, times.get((open_engine, count), math.inf))
    return {count: times[plain, count] / times[quantized, count] for count in COUNTS}


def _shortest(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest call within the budget."""
    call()
    shortest, began = math.inf, clock()
    while math.isinf(shortest) or clock() - began < BUDGET:
        start = clock()
        call()
        shortest = min(shortest, clock() - start)
    return shortest


def speedup_note(speedup: Speedup, dtype: str) -> str:
    """Return the speedup as a note for the manifest.

    Args:
        speedup: The result of ``measure_speedup``.
        dtype: Dtype of the unquantized model.

    Raises:
        SpeedCheckError: The geometric mean over all numbers of inputs is not above 1.
    """
    counts = " and ".join(f"{times:.2f} times for {count}" for count, times in speedup.items())
    note = f"speed of the quantized model relative to {dtype}, by the number of simultaneous inputs: {counts}"
    if statistics.geometric_mean(speedup.values()) <= 1:
        raise SpeedCheckError(
            f"{note}; nothing was written. Leave quantize out, or keep the smaller artifact anyway with "
            f"--no-check-speed"
        )
    return note


def run_encoder_example(engine: Encoder, count: int) -> list[EncoderOutput]:
    """Encode ``count`` inputs of random token ids."""
    longest = engine.manifest.limits.max_input_length
    return engine.encode(_inputs(count, min(longest, EXAMPLE_LENGTH), engine.manifest.model.vocab_size))


def run_generation_example(engine: Seq2Seq, count: int) -> list[GenerateOutput]:
    """Generate greedy outputs of a fixed length for ``count`` sources of random token ids."""
    manifest = engine.manifest
    limits = manifest.limits
    sources = _inputs(count, min(limits.max_source_length, EXAMPLE_LENGTH), manifest.model.vocab_size)
    start = resolve(manifest.output.defaults, limits, manifest.output.vocab_size, {}, None).prefix
    length = min(len(start) + _NEW_TOKENS, limits.max_target_length)
    params = SamplingParams("greedy", 1, 1, start, length, eos_token_ids=())
    requests = [Request(Tokens(np.array(ids, np.int32), None), params) for ids in sources]
    return [future.result() for future in engine.queue(requests)]


def _inputs(count: int, length: int, vocab_size: int) -> Sequence[list[int]]:
    return np.random.default_rng(0).integers(0, vocab_size, (count, length)).tolist()
