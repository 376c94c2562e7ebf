"""A small model of every family, compiled on this device and compared with HF in every bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import precast
from precast.artifacts.manifest import Manifest
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.models.build import describe_model
from precast.compiler.verify.oracle import Oracle
from precast.compiler.verify.parity import TOLERANCES, compare
from precast.graphs.encode import Dtype, EncodeLimits
from precast.graphs.graph_names import GraphName
from precast.runtime.encoder.engine import Encoder
from precast.tools.gpucheck.engines import random_ids
from precast.tools.gpucheck.stage import Report, Setting, Skip, Stage
from precast.tools.models import SMALL, write_small

ALONE_RELATIVE = {"fp32": 2e-5, "bf16": 1e-1, "fp16": 2e-2}
"""Allowed relative difference of an output alone and in a batch: the summation order may differ."""


@dataclass(frozen=True)
class Sizes:
    max_length: int
    max_tokens: int
    rounds: int
    """Number of random batches for each bucket."""
    alone: int
    """Number of inputs that are also run alone."""


FULL = Sizes(max_length=200, max_tokens=1024, rounds=2, alone=12)
TINY = Sizes(max_length=24, max_tokens=48, rounds=1, alone=2)

PARTS = (*(f"{name}-{dtype}" for name in SMALL for dtype in ("fp32", "bf16")), "bert-fp16")


def run(setting: Setting, part: str) -> Report:
    family, _, dtype = part.partition("-")
    if setting.device == "cpu" and dtype == "fp16":
        raise Skip("fp16 is for CUDA")
    return check_family(setting, family, dtype, TINY if setting.tiny else FULL)  # type: ignore[arg-type]


def check_family(setting: Setting, family: str, dtype: Dtype, sizes: Sizes) -> Report:
    folder = setting.work / "families" / f"{family}-{dtype}"
    model = write_small(family, folder / "model")
    backend: dict[str, Any] = {"backend": "reference"} if setting.device == "cpu" else {"autotune": False}
    manifest = precast.compile(
        model, folder / "model.precast", task="hidden", device=setting.device, dtype=dtype, overwrite=True,
        max_length=sizes.max_length, max_tokens=sizes.max_tokens, max_batch=32, **backend,
    )  # fmt: skip
    report = Report()
    report.expect(manifest.parity is not None, "the compiler did not check parity")
    checkpoint = open_checkpoint(str(model))
    oracle = Oracle(checkpoint, describe_model(checkpoint, "hidden").spec)
    with precast.Encoder.load(folder / "model.precast") as engine:
        worst = check_buckets(engine, oracle, sizes, report)
        apart = check_alone(engine, sizes, report)
        captured = [capture.bucket for capture in engine.stats().captures]
        buckets = manifest.graphs[GraphName.ENCODE].buckets.sizes
    report.content = {
        "parity": manifest.parity.model_dump() if manifest.parity else None,
        "against_hf": worst,
        "alone_against_batch": apart,
        "captured": captured,
    }
    every = setting.device == "cpu" or set(captured) == set(buckets)
    report.expect(every, f"expected captured graphs for {list(buckets)}, found {sorted(captured)}")
    print(report.content)
    return report


def check_buckets(engine: Encoder, oracle: Oracle, sizes: Sizes, report: Report) -> dict[str, float]:
    """Run batches of random lengths for every bucket, in random order; return the worst errors."""
    manifest, random = engine.manifest, np.random.default_rng(1)
    buckets = [*manifest.graphs[GraphName.ENCODE].buckets.sizes] * sizes.rounds
    random.shuffle(buckets)
    allowed = TOLERANCES[manifest.build.dtype]
    worst = {"max_relative_error": 0.0, "min_cosine": 1.0}
    for bucket in buckets:
        inputs = random_batch(random, manifest, bucket)
        found = [output.hidden for output in engine.encode(inputs)]
        error = compare(found, [tensor.numpy() for tensor in oracle.outputs([i.tolist() for i in inputs])])
        report.expect(
            error["max_relative_error"] <= allowed.relative and error["min_cosine"] >= allowed.cosine,
            f"bucket {bucket}, lengths {[len(one) for one in inputs]}: {error}",
        )
        worst["max_relative_error"] = max(worst["max_relative_error"], error["max_relative_error"])
        worst["min_cosine"] = min(worst["min_cosine"], error["min_cosine"])
    return worst


def check_alone(engine: Encoder, sizes: Sizes, report: Report) -> float:
    """Run inputs alone and in a batch; return the largest relative difference of their outputs."""
    manifest, random = engine.manifest, np.random.default_rng(2)
    assert isinstance(manifest.limits, EncodeLimits)
    lengths = random.integers(1, manifest.limits.max_length + 1, size=sizes.alone)
    inputs = random_ids(random, lengths.tolist(), manifest.model.vocab_size)
    outputs = engine.encode(inputs)
    worst = 0.0
    for ids, batched in zip(inputs, outputs, strict=True):
        alone = engine.encode([ids])[0].hidden
        worst = max(worst, relative_difference(batched.hidden, alone))
    limit = ALONE_RELATIVE[manifest.build.dtype]
    report.expect(worst <= limit, f"alone and in a batch differ by {worst:.2e}, allowed {limit:.0e}")
    return worst


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return ``|a - b| / |b|``; infinite if either is not finite."""
    difference = float(np.linalg.norm(a.astype(np.float64) - b) / max(float(np.linalg.norm(b)), 1e-30))
    return difference if np.isfinite(difference) else float("inf")


def random_batch(random: np.random.Generator, manifest: Manifest, bucket: int) -> list[np.ndarray]:
    """Return inputs whose total length selects ``bucket``: more than fits into the next smaller one."""
    below = [size for size in manifest.graphs[GraphName.ENCODE].buckets.sizes if size < bucket]
    budget = int(random.integers(max(below, default=0) + 1, bucket + 1))
    assert isinstance(manifest.limits, EncodeLimits)
    longest = manifest.limits.max_length
    lengths: list[int] = []
    while (left := budget - sum(lengths)) > 0:
        length = int(random.integers(1, min(longest, left) + 1))
        lengths.append(left if left <= longest and len(lengths) >= 5 else length)
    return random_ids(random, _shuffled(random, lengths), manifest.model.vocab_size)


def _shuffled(random: np.random.Generator, lengths: Sequence[int]) -> list[int]:
    return [int(length) for length in random.permutation(list(lengths))]


STAGE = Stage(
    "families",
    "every family agrees with Hugging Face in every bucket, alone and in a batch",
    limit=240,
    run=run,
    parts=PARTS,
    after=("machine",),
)
