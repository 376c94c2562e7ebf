"""A small encoder-decoder of every family: tokens equal to Hugging Face, alone and with other requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.utils.logging import disable_progress_bar

import precast
from precast.graphs.encode import Dtype
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.generation.outputs import GenerateOutput
from precast.tools.gpucheck.stage import Report, Setting, Stage
from precast.tools.models import SEQ2SEQ, write_small_seq2seq

SAME_SCORE = {"fp32": 1e-3, "bf16": 0.3}
"""Allowed difference of scores if tokens differ: rounding may decide between equally good sequences."""
DIFFERENT = {"fp32": 0.1, "bf16": 1.0}
"""Allowed share of requests whose tokens differ."""


@dataclass(frozen=True)
class Sizes:
    max_length: int
    new_tokens: int
    requests: int


FULL = Sizes(max_length=120, new_tokens=40, requests=24)
TINY = Sizes(max_length=20, new_tokens=6, requests=3)
PARTS = tuple(f"{name}-{dtype}" for name in SEQ2SEQ for dtype in ("fp32", "bf16"))
SEARCHES: tuple[dict[str, Any], ...] = (
    {"num_beams": 1},
    {"num_beams": 4},
    {"num_beams": 2, "no_repeat_ngram_size": 3},
)


@dataclass(frozen=True)
class Request:
    """A source with its generation options."""

    source: list[int]
    options: dict[str, Any]


def run(setting: Setting, part: str) -> Report:
    family, _, dtype = part.rpartition("-")
    return check_family(setting, family, dtype, TINY if setting.tiny else FULL)  # type: ignore[arg-type]


def check_family(setting: Setting, family: str, dtype: Dtype, sizes: Sizes) -> Report:
    folder, report = setting.work / "generation" / f"{family}-{dtype}", Report()
    model = write_small_seq2seq(family, folder / "model")
    backend: dict[str, Any] = {"backend": "reference"} if setting.device == "cpu" else {"autotune": False}
    manifest = precast.compile(
        model, folder / "model.precast", device=setting.device, dtype=dtype, overwrite=True, max_num_seqs=24,
        max_length=sizes.max_length, max_target_length=sizes.new_tokens + 2, **backend,
    )  # fmt: skip
    report.expect(manifest.parity is not None, "the compiler did not check parity")
    requests = random_requests(sizes, manifest.model.vocab_size)
    with precast.Seq2Seq.load(folder / "model.precast") as engine:
        alone = [engine.generate(one.source, **one.options) for one in requests]
        check_in_flight(engine, requests, alone, dtype, report)
        captured = len(engine.stats().captures)
    report.expect(setting.device == "cpu" or captured > 1, f"{captured} graphs were captured")
    different = check_against_hf(model, requests, alone, dtype, report)
    report.content = {
        "parity": manifest.parity.model_dump() if manifest.parity else None,
        "requests": len(requests),
        "other_tokens_than_hf": different,
        "captured": captured,
    }
    print(report.content)
    return report


def random_requests(sizes: Sizes, vocab_size: int) -> list[Request]:
    """Return requests with random source and target lengths, cycling through ``SEARCHES``."""
    random = np.random.default_rng(5)
    lengths = random.integers(1, sizes.max_length + 1, size=sizes.requests)
    limits = random.integers(2, sizes.new_tokens + 1, size=sizes.requests)
    return [
        Request(
            random.integers(3, vocab_size, size=int(length)).tolist(),
            {**SEARCHES[at % len(SEARCHES)], "max_new_tokens": int(limit)},
        )
        for at, (length, limit) in enumerate(zip(lengths, limits, strict=True))
    ]


def check_in_flight(
    engine: Seq2Seq,
    requests: Sequence[Request],
    alone: Sequence[GenerateOutput],
    dtype: Dtype,
    report: Report,
) -> None:
    """Submit all requests and cancel one; each output must be the one the request gets alone."""
    cancelled = engine.submit(requests[0].source, num_beams=1)
    futures = [engine.submit(one.source, **one.options) for one in requests]
    cancelled.cancel()
    different = 0
    for one, future, expected in zip(requests, futures, alone, strict=True):
        output = future.result(timeout=120)
        if not np.array_equal(output.token_ids, expected.token_ids):
            different += 1
            near = abs(output.score - expected.score) <= SAME_SCORE[dtype]
            report.expect(near, f"{one.options}: score {output.score}, alone {expected.score}")
    allowed = DIFFERENT[dtype] * len(requests)
    report.expect(different <= allowed, f"{different} of {len(requests)} have other tokens than alone")


def check_against_hf(
    model: Path, requests: Sequence[Request], found: Sequence[GenerateOutput], dtype: Dtype, report: Report
) -> int:
    """Compare with Hugging Face in fp32 on the CPU; return the number of requests whose tokens differ."""
    disable_progress_bar()
    theirs: Any = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    theirs.eval()
    different = 0
    for one, ours in zip(requests, found, strict=True):
        expected = theirs.generate(torch.tensor([one.source]), **one.options)[0]
        different += expected.tolist() != ours.token_ids.tolist()
    allowed = DIFFERENT[dtype] * len(requests)
    report.expect(different <= allowed, f"{different} of {len(requests)} have other tokens than Hugging Face")
    return different


STAGE = Stage(
    "generation",
    "every encoder-decoder generates the tokens of Hugging Face, alone and with other requests",
    limit=295,
    run=run,
    parts=PARTS,
    after=("machine",),
)
