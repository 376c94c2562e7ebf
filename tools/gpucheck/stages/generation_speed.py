"""Tokens per second of whole requests compared with Hugging Face, and the host time of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.utils.logging import disable_progress_bar

import precast
from precast.runtime.generation.cuda.staging import StepSlot
from precast.runtime.generation.decode_loop import DecodeLoop
from precast.runtime.generation.engine import Seq2Seq
from precast.tools.gpucheck.floors import Ceilings
from precast.tools.gpucheck.generation_shapes import Timed, Work
from precast.tools.gpucheck.rows import Row, rounded
from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage, keep
from precast.tools.gpucheck.stages.generation_models import PARTS, folder_of, timed_of

EAGER, STATIC = "HF eager", "HF static cache, torch.compile"
COMPILED = "T5-small"
"""The model that is also measured with torch.compile."""
STEPS = (1, 2, 4, 8)
"""Values of ``steps_per_sync`` that are compared for the models in ``COMPARED``."""
COMPARED = ("T5-small", "T5-base")


@dataclass(frozen=True)
class Sizes:
    rounds: int
    steps: tuple[int, ...]


FULL = Sizes(rounds=3, steps=STEPS)
TINY = Sizes(rounds=1, steps=(1, 2))


@dataclass
class HostTime:
    """Seconds that the engine's thread spends in the decode loop, and seconds of them that it waits."""

    working: float = 0.0
    waiting: float = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        with (
            patch.object(DecodeLoop, "run", self._timed(DecodeLoop.run, "working")),
            patch.object(StepSlot, "wait", self._timed(StepSlot.wait, "waiting")),
        ):
            yield

    def _timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                setattr(self, name, getattr(self, name) + time.perf_counter() - started)

        return call


def run(setting: Setting, part: str) -> Report:
    sizes, report = (TINY if setting.tiny else FULL), Report()
    timed, folder = timed_of(setting, part), folder_of(setting, part)
    if not (folder / "model.precast").is_dir():
        raise Skip(f"{part} was not compiled")
    ceilings = Ceilings.of(setting.earlier.get("machine"))
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with precast.Seq2Seq.load(folder / "model.precast") as engine:
        engine.generate([[5, 6, 7]], max_new_tokens=2)
        seconds = time.perf_counter() - started
        report.content = {
            "load_to_first_result_s": rounded(seconds),
            "kv_cache_bytes": engine.stats().kv_cache_bytes,
        }
        for work in timed.works:
            rows.append(measure(engine, timed, work, ceilings, sizes, report).plain())
            report.content["rows"] = rows
            keep(setting, report)
        report.content["capture_seconds"] = rounded(engine.stats().capture_seconds)
    work = timed.works[0]
    if part in COMPARED:
        report.content["steps_per_sync"] = compare_steps(folder / "model.precast", work, sizes)
        keep(setting, report)
    rows[0]["peers"] = peers(folder / "model", setting.device, part, work, report)
    report.content["rows"] = rows
    print(report.content)
    return report


def measure(
    engine: Seq2Seq, timed: Timed, work: Work, ceilings: Ceilings | None, sizes: Sizes, report: Report
) -> Row:
    """Return the median speed of several rounds, after a warmup round that captures graphs."""
    sources = random_sources(engine, work)
    outputs = engine.generate(sources, **options(work))
    complete = all(len(output.token_ids) == work.new_tokens + 1 for output in outputs)
    report.expect(complete, f"{work} ended early")
    seconds, host = [], HostTime()
    before = engine.stats().steps
    with host.measured():
        for _ in range(sizes.rounds):
            started = time.perf_counter()
            engine.generate(sources, **options(work))
            seconds.append(time.perf_counter() - started)
    steps = engine.stats().steps - before
    mean = sum(map(len, sources)) / len(sources)
    tokens = work.batch * work.new_tokens
    floor = None
    if ceilings is not None:
        floor = work.batch * ceilings.bytes_per_s / timed.bytes_per_step(work, mean)
    beams = f", {work.num_beams} beams" if work.num_beams > 1 else ""
    return Row(
        f"{timed.name} bf16{beams}, {work.batch} sources of {work.source[0]} to {work.source[1]}",
        tokens / statistics.median(seconds),
        "tokens/s",
        aim=work.aim,
        floor=floor,
        published=work.published,
        details={
            "seconds": [rounded(one) for one in seconds],
            "host_us_per_step": rounded(1e6 * (host.working - host.waiting) / steps),
            "step_ms": rounded(1e3 * sum(seconds) / steps),
        },
    )


def compare_steps(path: Path, work: Work, sizes: Sizes) -> dict[str, float]:
    """Return tokens/s by ``steps_per_sync``."""
    rates = {}
    for steps in sizes.steps:
        with precast.Seq2Seq.load(path, steps_per_sync=steps) as engine:
            sources = random_sources(engine, work)
            engine.generate(sources, **options(work))
            started = time.perf_counter()
            for _ in range(sizes.rounds):
                engine.generate(sources, **options(work))
            seconds = time.perf_counter() - started
        rates[str(steps)] = rounded(sizes.rounds * work.batch * work.new_tokens / seconds)
    return rates


def peers(model: Path, device: str, name: str, work: Work, report: Report) -> dict[str, float]:
    """Return tokens/s of Hugging Face with sources of the maximum length, by name of the configuration."""
    disable_progress_bar()
    theirs: Any = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.bfloat16, local_files_only=True)
    theirs.to(device).eval()
    random = np.random.default_rng(2)
    ids = torch.from_numpy(random.integers(3, 50, size=(work.batch, work.source[1]))).to(device)
    given: dict[str, Any] = {
        "num_beams": work.num_beams, "max_new_tokens": work.new_tokens, "eos_token_id": -1,
        "do_sample": False, "forced_eos_token_id": None,
    }  # fmt: skip
    rates = {EAGER: _rate(theirs, ids, work, given)}
    if name == COMPILED and device != "cpu":
        try:
            rates[STATIC] = _rate(theirs, ids, work, {**given, "cache_implementation": "static"})
        except Exception as error:  # a failure of the peer is recorded, but does not fail the stage
            report.content["static_cache"] = f"{type(error).__name__}: {error}"[:500]
    report.expect(all(rate > 0 for rate in rates.values()), "Hugging Face generated nothing")
    return {key: rounded(rate) for key, rate in rates.items()}


def _rate(model: Any, ids: torch.Tensor, work: Work, given: dict[str, Any]) -> float:
    """Return the tokens/s of the second call; the first one may compile."""
    for _ in range(2):
        started = time.perf_counter()
        tokens = model.generate(ids, **given)
        tokens.cpu()
        seconds = time.perf_counter() - started
    return work.batch * int(tokens.shape[1] - 1) / seconds


def random_sources(engine: Seq2Seq, work: Work) -> list[list[int]]:
    """Return sources of random lengths, the same ones on each call."""
    random = np.random.default_rng(1)
    lengths = random.integers(work.source[0], work.source[1] + 1, size=work.batch)
    vocab = engine.manifest.model.vocab_size
    return [random.integers(3, min(vocab, 50), size=int(length)).tolist() for length in lengths]


def options(work: Work) -> dict[str, Any]:
    """Return the options of ``generate``, with the length as the only stop condition."""
    return {"num_beams": work.num_beams, "max_new_tokens": work.new_tokens, "eos_token_id": []}


STAGE = Stage(
    "generation_speed",
    "tokens per second of whole requests, and the host time of a step",
    limit=145,
    run=run,
    parts=PARTS,
    after=("generation_models",),
    alone=True,
)
