"""Every kernel of ``compiler/kernels/cuda`` against its plain-torch form in fp64, on drawn shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from precast.tools.gpucheck.stage import Report, Setting, Stage

ALLOWED = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest ``|out - ref| / |ref|`` over a whole output."""
HEAD_SIZES = (32, 40, 48, 64, 72, 80, 96, 100, 128, 160, 192, 256, 1, 7, 17)
EDGES = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
"""Lengths on both sides of every tile."""
REPEATS = 5
"""Cases in a row of one dtype, head size and grouping: each such choice is a kernel to compile."""
PARTS = (*(f"attention-{seed}" for seed in range(4)), "pooling-0")


@dataclass(frozen=True)
class Sizes:
    cases: int
    """Drawn in each part."""
    tokens: int
    """Of one case at most."""
    seconds: float
    """After which no further case is begun."""


FULL = Sizes(cases=150, tokens=1500, seconds=110)
TINY = Sizes(cases=4, tokens=40, seconds=60)


@dataclass(frozen=True)
class Case:
    """One drawn call of a kernel."""

    what: str
    dtype: torch.dtype
    call: Callable[[], Tensor]
    reference: Callable[[], Tensor]


Draw = Callable[[np.random.Generator, np.random.Generator, Sizes, str], Case]
"""From what stays for ``REPEATS`` cases and what changes in each, sizes and the device."""


def run(setting: Setting, part: str) -> Report:
    sizes = TINY if setting.tiny else FULL
    kind, _, number = part.partition("-")
    return check(DRAWS[kind], sizes, setting.device, seed=int(number))


def check(draw: Draw, sizes: Sizes, device: str, seed: int) -> Report:
    """Run drawn cases; content: the worst error of each dtype, as a share of what is allowed."""
    report, worst = Report(), dict.fromkeys(map(str, ALLOWED), 0.0)
    random, started = np.random.default_rng(seed), time.monotonic()
    torch.manual_seed(seed)
    for number in range(sizes.cases):
        if time.monotonic() - started > sizes.seconds:
            report.expect(number >= sizes.cases // 4, f"only {number} of {sizes.cases} cases were reached")
            break
        variant = np.random.default_rng([seed, number // REPEATS])
        case = draw(variant, random, sizes, device)
        error = error_of(case)
        report.expect(
            error <= ALLOWED[case.dtype], f"{case.what}: error {error:.2e}, allowed {ALLOWED[case.dtype]}"
        )
        worst[str(case.dtype)] = max(worst[str(case.dtype)], error / ALLOWED[case.dtype])
    report.content = {"cases": report.checks, "worst_of_allowed": worst}
    print(report.content)
    return report


def error_of(case: Case) -> float:
    """``|out - ref| / |ref|``; infinite for a number that is none, or that nobody wrote."""
    with poisoned():
        found = case.call()
    expected = case.reference()
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    difference = float(torch.linalg.vector_norm(found.double() - expected))
    return difference / max(float(torch.linalg.vector_norm(expected)), 1e-30) if difference else 0.0


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN: an output that the kernel leaves unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def draw_lengths(random: np.random.Generator, most: int) -> list[int]:
    """Ragged: edges of tiles, empty sequences, anything between."""
    lengths: list[int] = []
    while sum(lengths) < most:
        kind = random.random()
        if kind < 0.2:
            lengths.append(0)
        elif kind < 0.6:
            lengths.append(int(random.choice(EDGES)))
        else:
            lengths.append(int(random.integers(1, max(2, most // 2))))
        if random.random() < 0.15:
            break
    while sum(lengths) > most:
        lengths.pop()
    return lengths if sum(lengths) else [min(most, 5)]


def draw_dtype(random: np.random.Generator, device: str) -> torch.dtype:
    """Triton's interpreter, which is what a CPU has, gets bf16 wrong."""
    return list(ALLOWED)[int(random.integers(2 if device == "cpu" else 3))]


def draw_attention(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    from precast.compiler.kernels.cuda import packed_attention as kernels

    dtype = draw_dtype(variant, device)
    group = int(variant.choice([1, 1, 2, 4]))
    head_dim = int(variant.choice(HEAD_SIZES if device != "cpu" else (16, 7, 32)))
    biased, strided = variant.random() < 0.4, bool(variant.random() < 0.5)
    lengths = draw_lengths(random, sizes.tokens)
    spare = int(random.choice([0, 1, 7, 64]))
    kv_heads = int(random.integers(1, 4))
    window = [(None, None), (None, 0), (0, 0), (16, 16), (127, 0), (3, 40)][int(random.integers(6))]
    reach = int(random.choice([1, 24, 128])) if biased else None
    q, k, v = draw_qkv(sum(lengths) + spare, kv_heads, group, head_dim, dtype, device)
    if not strided:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    begin, end = ranges(lengths, spare, window, device)
    # Nobody sees spare tokens: what is there must not matter.
    k[sum(lengths) :] = v[sum(lengths) :] = float("nan")
    heads = kv_heads * group
    bias = None if reach is None else torch.randn(heads, 2 * reach + 1, device=device) * 2
    scale = float(random.choice([1.0, head_dim**-0.5, 0.05]))
    what = (
        f"packed_attention {dtype} lengths {lengths} spare {spare} heads {heads}/{kv_heads}x{head_dim} "
        f"window {window} reach {reach} scale {scale:.3f}"
    )

    wide_bias = None if bias is None else bias.double()

    def reference() -> Tensor:
        wide = q.double(), k.double(), v.double()
        return kernels.packed_attention_reference(wide[0], wide[1], wide[2], begin, end, wide_bias, scale)

    return Case(what, dtype, lambda: kernels.packed_attention(q, k, v, begin, end, bias, scale), reference)


def draw_qkv(
    tokens: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of one projection, as a model gives them."""
    split = [kv_heads * group, kv_heads, kv_heads]
    rows = torch.randn(tokens, sum(split), head_dim, device=device).to(dtype)
    q, k, v = rows.split(split, dim=1)
    return q, k, v


def ranges(
    lengths: list[int], spare: int, window: tuple[int | None, int | None], device: str
) -> tuple[Tensor, Tensor]:
    """The keys that each token sees, as ``TritonOps.visible`` makes them; a spare token sees none."""
    begin, end = [], []
    start = 0
    for length in lengths:
        stop = start + length
        for token in range(start, stop):
            begin.append(start if window[0] is None else max(start, token - window[0]))
            end.append(stop if window[1] is None else min(stop, token + window[1] + 1))
        start = stop
    begin += [start] * spare
    end += [start] * spare
    return (
        torch.tensor(begin, dtype=torch.int32, device=device),
        torch.tensor(end, dtype=torch.int32, device=device),
    )


def draw_pooling(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    from precast.compiler.kernels.cuda import segment_pool as kernels

    dtype = draw_dtype(variant, device)
    lengths = draw_lengths(random, sizes.tokens)
    columns = int(random.choice([1, 3, 64, 65, 768, 1000, 1024]))
    rows = torch.randn(sum(lengths) + 3, columns * 2, device=device).to(dtype)[:, :columns]
    ends = torch.tensor(lengths).cumsum(0)
    skipped = torch.tensor([int(random.integers(0, length + 1)) for length in lengths])
    begin = (ends - torch.tensor(lengths) + skipped).to(torch.int32).to(device)
    end = ends.to(torch.int32).to(device)
    kind = ["sum", "weighted sum", "maximum"][int(random.integers(3))]
    weight = torch.rand(len(rows), device=device) + 0.5 if kind == "weighted sum" else None
    wide = rows.double()
    # The result is fp32 whatever the rows are: sums are as good as fp32 adds them.
    what = f"segment {kind} of {dtype} rows, lengths {lengths}, {columns} columns"
    if kind == "maximum":
        return Case(
            what,
            torch.float32,
            lambda: kernels.segment_max(rows, begin, end),
            lambda: kernels.segment_max_reference(wide, begin, end),
        )
    return Case(
        what,
        torch.float32,
        lambda: kernels.segment_sum(rows, begin, end, weight),
        lambda: kernels.segment_sum_reference(wide, begin, end, weight),
    )


DRAWS: dict[str, Draw] = {"attention": draw_attention, "pooling": draw_pooling}
COVERED: dict[str, Any] = {"packed_attention": draw_attention, "segment_pool": draw_pooling}
"""By the files of ``compiler/kernels/cuda`` that define operators; a test holds this complete."""

STAGE = Stage(
    "kernels",
    "every kernel against fp64 on drawn shapes, outputs poisoned before",
    limit=200,
    run=run,
    parts=PARTS,
    after=("machine",),
)
