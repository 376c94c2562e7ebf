"""Every kernel of ``compiler/kernels/triton`` compared with its reference in fp64, on random shapes."""

from __future__ import annotations

import time

import numpy as np
import torch

from precast.tools.gpucheck.cases.case import ALLOWED, CaseMaker, Sizes, error_of
from precast.tools.gpucheck.stage import Report, Setting, Stage

REPEATS = 5
"""Consecutive cases with one dtype, head size and grouping, each combination of which compiles a kernel."""
PARTS = (
    *(f"attention-{seed}" for seed in range(4)),
    *(f"{kind}-{seed}" for kind in ("self", "cross") for seed in range(2)),
    *(f"{kind}-0" for kind in ("pooling", "rows", "project")),
)
FILES = {
    "attention": "packed_attention",
    "pooling": "segment_pool",
    "self": "decode_attention",
    "cross": "decode_attention",
    "rows": "layers",
    "project": "cross_kv",
}
"""The file of ``compiler/kernels/triton`` that a kind of case tests; a test checks that none is missing."""

FULL = Sizes(cases=150, tokens=1500, seconds=110)
TINY = Sizes(cases=4, tokens=40, seconds=60)


def run(setting: Setting, part: str) -> Report:
    sizes = TINY if setting.tiny else FULL
    kind, _, number = part.partition("-")
    return check(case_makers()[kind], sizes, setting.device, seed=int(number))


def case_makers() -> dict[str, CaseMaker]:
    """Return functions that make cases, by the kinds of ``FILES``.

    They are imported here because a machine without Triton must still be able to list the stages.
    """
    from precast.tools.gpucheck.cases.decode_attention import random_cross_attention, random_self_attention
    from precast.tools.gpucheck.cases.few_rows import random_few_rows
    from precast.tools.gpucheck.cases.packed_attention import random_packed_attention
    from precast.tools.gpucheck.cases.project import random_cross_kv
    from precast.tools.gpucheck.cases.segment_pool import random_segment_pool

    return {
        "attention": random_packed_attention,
        "pooling": random_segment_pool,
        "self": random_self_attention,
        "cross": random_cross_attention,
        "rows": random_few_rows,
        "project": random_cross_kv,
    }


def check(make_case: CaseMaker, sizes: Sizes, device: str, seed: int) -> Report:
    """Run random cases and report the worst error of each dtype, as a share of the allowed error."""
    report, worst = Report(), dict.fromkeys(map(str, ALLOWED), 0.0)
    random, started = np.random.default_rng(seed), time.monotonic()
    torch.manual_seed(seed)
    for number in range(sizes.cases):
        if time.monotonic() - started > sizes.seconds:
            report.expect(number >= sizes.cases // 4, f"only {number} of {sizes.cases} cases ran in time")
            break
        variant = np.random.default_rng([seed, number // REPEATS])
        case = make_case(variant, random, sizes, device)
        error = error_of(case)
        report.expect(
            error <= ALLOWED[case.dtype], f"{case.what}: error {error:.2e}, allowed {ALLOWED[case.dtype]}"
        )
        worst[str(case.dtype)] = max(worst[str(case.dtype)], error / ALLOWED[case.dtype])
    report.content = {"cases": report.checks, "worst_of_allowed": worst}
    print(report.content)
    return report


STAGE = Stage(
    "kernels",
    "every kernel agrees with fp64 on random shapes, with poisoned outputs",
    limit=200,
    run=run,
    parts=PARTS,
    after=("machine",),
)
