"""Tens of thousands of requests of every kind through one engine: every answer checked, memory watched.

Exit status 1 if an answer is wrong, a request failed, memory grows, or blocks are left behind.
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
GROWTH = 5 * 1024 * 1024
"""Bytes that memory may grow by in the second half of the requests: 250 for each request of the usual run.

In the first half it grows by what oneDNN and the allocator keep for each size of a step that they meet, until
all have been met.
"""
_CANCELLED = 0.05
_WAITING = 64
"""Requests that a thread keeps in flight."""


@dataclass(frozen=True)
class Asked:
    """One source and its options."""

    text: str
    options: dict[str, Any]


@dataclass
class Seen:
    """What became of the requests; threads count under ``lock``."""

    answered: int = 0
    cancelled: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Resident bytes, after each hundredth of all requests."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> int:
        return self.answered + self.cancelled + self.failed


def asked(count: int, seed: int = 0) -> list[Asked]:
    """Different requests: greedy, beams and samples, short and long targets, sources of all lengths."""
    draw = random.Random(seed)
    found = []
    for place, (text, _) in enumerate(held_out_dates(count, seed)):
        options: dict[str, Any] = {"max_length": draw.randint(4, LONGEST_TARGET)}
        if place % 3 == 1:
            options |= {"num_beams": draw.randint(2, 5), "length_penalty": draw.choice([0.0, 1.0, 2.0])}
        elif place % 3 == 2:
            options |= {"do_sample": True, "seed": draw.randrange(1 << 40), "temperature": 0.8, "top_k": 20}
            options["num_return_sequences"] = draw.randint(1, 3)
        found.append(Asked(text if draw.random() < 0.7 else text[: draw.randint(1, len(text))], options))
    return found


def tokens_of(answer: Any) -> list[list[int]]:
    return [one.token_ids.tolist() for one in answer.sequences]


def differing_from_hugging_face(
    checkpoint: Path, requests: Sequence[Asked], expected: Sequence[list[list[int]]]
) -> list[str]:
    """A line for each greedy or beam request that Hugging Face answers otherwise; samples do not repeat."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found = []
    for one, ours in zip(requests, expected, strict=True):
        if one.options.get("do_sample"):
            continue
        theirs = model.generate(**tokenizer([one.text], return_tensors="pt"), **one.options)[0].tolist()
        filler = {model.config.pad_token_id, model.config.eos_token_id}
        if theirs[: len(ours[0])] != ours[0] or not filler.issuperset(theirs[len(ours[0]) :]):
            found.append(f"{one}: Hugging Face gives {theirs}, alone {ours[0]}")
    return found


def push(
    engine: Seq2Seq, requests: Sequence[Asked], expected: Sequence[list[list[int]]], seen: Seen, total: int,
    count: int, seed: int,
) -> None:  # fmt: skip
    """One thread's share: ``count`` requests, some cancelled, each answer checked."""
    draw = random.Random(seed)
    flying: list[tuple[int, Any]] = []
    for _ in range(count):
        place = draw.randrange(len(requests))
        flying.append((place, _submit(engine, requests[place])))
        if draw.random() < _CANCELLED:
            draw.choice(flying)[1].cancel()
        if len(flying) >= _WAITING:
            _check(*flying.pop(draw.randrange(len(flying))), requests, expected, seen, total)
    for place, future in flying:
        _check(place, future, requests, expected, seen, total)


def _submit(engine: Seq2Seq, one: Asked) -> Any:
    while True:
        try:
            return engine.submit(one.text, **one.options)
        except QueueFullError:
            time.sleep(0.005)


def _check(
    place: int, future: Any, requests: Sequence[Asked], expected: Sequence[list[list[int]]], seen: Seen,
    total: int,
) -> None:  # fmt: skip
    try:
        found = tokens_of(future.result(timeout=600))
    except CancelledError:
        with seen.lock:
            seen.cancelled += 1
    except InferenceError:
        with seen.lock:
            seen.failed += 1
    else:
        with seen.lock:
            seen.answered += 1
            if found != expected[place]:
                seen.wrong.append(f"{requests[place]}: {found}, alone {expected[place]}")
    with seen.lock:
        if seen.over * 100 // total > len(seen.memory):
            seen.memory.append(resident_bytes())


def resident_bytes() -> int:
    """Memory of this process that is not swapped out; Linux only."""
    blocks = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return blocks * os.sysconf("SC_PAGE_SIZE")


def soak(folder: Path, count: int, threads: int, backend: Backend) -> dict[str, Any]:
    """Train, compile, ask ``count`` times; the figures."""
    checkpoint = write_dates_model("t5", folder / "checkpoint")
    precast.compile(
        checkpoint, folder / "artifact", backend=backend, max_target_length=LONGEST_TARGET, max_num_seqs=32
    )
    requests, seen = asked(DISTINCT), Seen()
    with precast.Seq2Seq.load(folder / "artifact", max_waiting=threads * _WAITING // 2) as engine:
        expected = [tokens_of(engine.generate(one.text, **one.options)) for one in requests]
        foreign = differing_from_hugging_face(checkpoint, requests, expected)
        begun = time.monotonic()
        shares = [count // threads + (place < count % threads) for place in range(threads)]
        workers = [
            threading.Thread(target=push, args=(engine, requests, expected, seen, count, share, place))
            for place, share in enumerate(shares)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - begun
        stats = _idle(engine)
    return {
        "backend": backend,
        "threads": threads,
        "distinct": len(requests),
        "requests": count,
        "answered": seen.answered,
        "cancelled": seen.cancelled,
        "failed": seen.failed,
        "lost": count - seen.over,
        "wrong": len(seen.wrong),
        "first_wrong": seen.wrong[:3],
        "unlike_hugging_face": foreign,
        "rss_bytes": {f"{part}%": _at(seen.memory, part) for part in range(10, 101, 10)},
        "rss_growth_bytes": _at(seen.memory, 100) - _at(seen.memory, 50),
        "num_seqs_used": stats.num_seqs_used,
        "self_blocks_used": stats.self_blocks_used,
        "cross_blocks_used": stats.cross_blocks_used,
        "tokens": stats.tokens,
        "steps": stats.steps,
        "seconds": round(seconds, 2),
    }


def _idle(engine: Seq2Seq) -> Any:
    """The statistics once nothing runs: answers are there a moment before their blocks are given back."""
    end = time.monotonic() + 10
    while (engine.stats().running or engine.stats().waiting) and time.monotonic() < end:
        time.sleep(0.01)
    return engine.stats()


def _at(memory: Sequence[int], percent: int) -> int:
    return memory[max(0, len(memory) * percent // 100 - 1)] if memory else 0


def complaints(found: dict[str, Any]) -> list[str]:
    """What is wrong with the figures."""
    names = ("failed", "lost", "wrong", "unlike_hugging_face", "num_seqs_used", "self_blocks_used")
    lines = [f"{name}: {found[name]}" for name in (*names, "cross_blocks_used") if found[name]]
    if found["rss_growth_bytes"] > GROWTH:
        lines.append(f"memory grew by {found['rss_growth_bytes']} bytes, allowed {GROWTH}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--backend", choices=("inductor", "reference"), default="inductor")
    parser.add_argument("--output", type=Path, help="a JSON file; printed where left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), options.requests, options.threads, options.backend)
    if options.output is None:
        print(json.dumps(found, indent=2))
    else:
        write_result("generation_soak", {"rows": [found]}, options.output)
    for line in complaints(found):
        print(line, file=sys.stderr)
    return 1 if complaints(found) else 0


if __name__ == "__main__":
    sys.exit(main())
