"""Segment pooling: sums and maxima over the rows of each sequence."""

from __future__ import annotations

import numpy as np
import torch

from precast.compiler.kernels.triton import segment_pool as kernels
from precast.tools.gpucheck.cases.case import Case, Sizes, random_dtype, random_lengths


def random_segment_pool(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    dtype = random_dtype(variant, device)
    lengths = random_lengths(random, sizes.tokens)
    columns = int(random.choice([1, 3, 64, 65, 768, 1000, 1024]))
    rows = torch.randn(sum(lengths) + 3, columns * 2, device=device).to(dtype)[:, :columns]
    ends = torch.tensor(lengths).cumsum(0)
    skipped = torch.tensor([int(random.integers(0, length + 1)) for length in lengths])
    begin = (ends - torch.tensor(lengths) + skipped).to(torch.int32).to(device)
    end = ends.to(torch.int32).to(device)
    kind = ["sum", "weighted sum", "maximum"][int(random.integers(3))]
    weight = torch.rand(len(rows), device=device) + 0.5 if kind == "weighted sum" else None
    wide = rows.double()
    # The result is fp32 for rows of any dtype, so it must be as accurate as fp32 sums.
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
