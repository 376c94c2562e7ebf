"""A soak test: tens of thousands of mixed requests through one engine, with checks of outputs and memory.

Exits with status 1 if an output is wrong, a request fails, memory grows, or KV cache blocks are not released.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import precast
from precast.runtime.errors import InferenceError, QueueFullError
from precast.runtime.generation.engine import Seq2Seq
from precast.tools.bench.results import write_result
from precast.tools.synthetic import LONGEST_TARGET, held_out_dates, write_dates_model

Backend = Literal["inductor", "reference"]
DISTINCT = 50
MAX_GROWTH = 5 * 1024 * 1024
"""Bytes that memory may grow by in the second half of the run: 250 for each request of the default run.

In the first half oneDNN and the allocator cache memory for each new batch size.
"""
_CANCELLED = 0.05
"""Share of requests that are cancelled."""
_IN_FLIGHT = 64
"""Requests that each thread keeps in flight."""


@dataclass(frozen=True)
class Request:
    """A source with its generation options."""

    text: str
    options: dict[str, Any]


@dataclass
class Outcome:
    """Counts of finished requests; threads update them under ``lock``."""

    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    mismatches: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Resident bytes after each percent of all requests."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def finished(self) -> int:
        return self.completed + self.cancelled + self.failed


def make_requests(count: int, seed: int = 0) -> list[Request]:
    """Return different requests: greedy, beam search and sampling, with sources of all lengths."""
    rng = random.Random(seed)
    requests = []
    for index, (text, _) in enumerate(held_out_dates(count, seed)):
        options: dict[str, Any] = {"max_length": rng.randint(4, LONGEST_TARGET)}
        if index % 3 == 1:
            options |= {"num_beams": rng.randint(2, 5), "length_penalty": rng.choice([0.0, 1.0, 2.0])}
        elif index % 3 == 2:
            options |= {"do_sample": True, "seed": rng.randrange(1 << 40), "temperature": 0.8, "top_k": 20}
            options["num_return_sequences"] = rng.randint(1, 3)
        requests.append(Request(text if rng.random() < 0.7 else text[: rng.randint(1, len(text))], options))
    return requests


def tokens_of(output: Any) -> list[list[int]]:
    """Return the token ids of each sequence of an output."""
    return [sequence.token_ids.tolist() for sequence in output.sequences]


def find_hf_mismatches(
    checkpoint: Path, requests: Sequence[Request], expected: Sequence[list[list[int]]]
) -> list[str]:
    """Return a line for each greedy or beam search request whose tokens differ from those of Hugging Face.

    Sampling is skipped: the two use different random number generators.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    mismatches = []
    for request, ours in zip(requests, expected, strict=True):
        if request.options.get("do_sample"):
            continue
        inputs = tokenizer([request.text], return_tensors="pt")
        theirs = model.generate(**inputs, **request.options)[0].tolist()
        padding = {model.config.pad_token_id, model.config.eos_token_id}
        if theirs[: len(ours[0])] != ours[0] or not padding.issuperset(theirs[len(ours[0]) :]):
            mismatches.append(f"{request}: Hugging Face returns {theirs}, precast {ours[0]}")
    return mismatches


def push(
    engine: Seq2Seq, requests: Sequence[Request], expected: Sequence[list[list[int]]], outcome: Outcome,
    total: int, count: int, seed: int,
) -> None:  # fmt: skip
    """Submit ``count`` requests from one thread, cancel some, and check each output."""
    rng = random.Random(seed)
    in_flight: list[tuple[int, Any]] = []
    for _ in range(count):
        index = rng.randrange(len(requests))
        in_flight.append((index, _submit(engine, requests[index])))
        if rng.random() < _CANCELLED:
            rng.choice(in_flight)[1].cancel()
        if len(in_flight) >= _IN_FLIGHT:
            _check(*in_flight.pop(rng.randrange(len(in_flight))), requests, expected, outcome, total)
    for index, future in in_flight:
        _check(index, future, requests, expected, outcome, total)


def _submit(engine: Seq2Seq, request: Request) -> Any:
    while True:
        try:
            return engine.submit(request.text, **request.options)
        except QueueFullError:
            time.sleep(0.005)


def _check(
    index: int, future: Any, requests: Sequence[Request], expected: Sequence[list[list[int]]],
    outcome: Outcome, total: int,
) -> None:  # fmt: skip
    try:
        tokens = tokens_of(future.result(timeout=600))
    except CancelledError:
        with outcome.lock:
            outcome.cancelled += 1
    except InferenceError:
        with outcome.lock:
            outcome.failed += 1
    else:
        with outcome.lock:
            outcome.completed += 1
            if tokens != expected[index]:
                outcome.mismatches.append(f"{requests[index]}: {tokens}, alone {expected[index]}")
    with outcome.lock:
        if outcome.finished * 100 // total > len(outcome.memory):
            outcome.memory.append(resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process; Linux only."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def soak(folder: Path, count: int, threads: int, backend: Backend) -> dict[str, Any]:
    """Train and compile a model, send ``count`` requests and return the figures, as JSON."""
    checkpoint = write_dates_model("t5", folder / "checkpoint")
    precast.compile(
        checkpoint, folder / "artifact", backend=backend, max_target_length=LONGEST_TARGET, max_num_seqs=32
    )
    requests, outcome = make_requests(DISTINCT), Outcome()
    with precast.Seq2Seq.load(folder / "artifact", max_waiting=threads * _IN_FLIGHT // 2) as engine:
        expected = [tokens_of(engine.generate(request.text, **request.options)) for request in requests]
        hf_mismatches = find_hf_mismatches(checkpoint, requests, expected)
        started = time.monotonic()
        shares = [count // threads + (index < count % threads) for index in range(threads)]
        workers = [
            threading.Thread(target=push, args=(engine, requests, expected, outcome, count, share, index))
            for index, share in enumerate(shares)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - started
        stats = _idle_stats(engine)
    return {
        "backend": backend,
        "threads": threads,
        "distinct": len(requests),
        "requests": count,
        "completed": outcome.completed,
        "cancelled": outcome.cancelled,
        "failed": outcome.failed,
        "lost": count - outcome.finished,
        "mismatches": len(outcome.mismatches),
        "first_mismatches": outcome.mismatches[:3],
        "hf_mismatches": hf_mismatches,
        "rss_bytes": {f"{percent}%": _at(outcome.memory, percent) for percent in range(10, 101, 10)},
        "rss_growth_bytes": _at(outcome.memory, 100) - _at(outcome.memory, 50),
        "num_seqs_used": stats.num_seqs_used,
        "self_blocks_used": stats.self_blocks_used,
        "cross_blocks_used": stats.cross_blocks_used,
        "tokens": stats.tokens,
        "steps": stats.steps,
        "seconds": round(seconds, 2),
    }


def _idle_stats(engine: Seq2Seq) -> Any:
    """Return the statistics once no request runs: outputs arrive shortly before their blocks are released."""
    end = time.monotonic() + 10
    while (engine.stats().running or engine.stats().waiting) and time.monotonic() < end:
        time.sleep(0.01)
    return engine.stats()


def _at(memory: Sequence[int], percent: int) -> int:
    return memory[max(0, len(memory) * percent // 100 - 1)] if memory else 0


def problems(figures: dict[str, Any]) -> list[str]:
    """Return one line for each figure that is not as it must be."""
    names = ("failed", "lost", "mismatches", "hf_mismatches", "num_seqs_used", "self_blocks_used")
    lines = [f"{name}: {figures[name]}" for name in (*names, "cross_blocks_used") if figures[name]]
    if figures["rss_growth_bytes"] > MAX_GROWTH:
        lines.append(f"memory grew by {figures['rss_growth_bytes']} bytes, allowed {MAX_GROWTH}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--backend", choices=("inductor", "reference"), default="inductor")
    parser.add_argument("--output", type=Path, help="result file (default: print the result)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), options.requests, options.threads, options.backend)
    if options.output is None:
        print(json.dumps(figures, indent=2))
    else:
        write_result("generation_soak", {"rows": [figures]}, options.output)
    for line in problems(figures):
        print(line, file=sys.stderr)
    return 1 if problems(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
