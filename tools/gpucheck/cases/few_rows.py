"""Linear layers with few rows, with sizes at and around the edges of tiles."""

from __future__ import annotations

import numpy as np
import torch

from precast.compiler.kernels.triton import layers as kernels
from precast.tools.gpucheck.cases.case import Case, Sizes, random_dtype

COLUMNS = (1, 15, 16, 17, 512, 2048, 4096, 4097, 8192)
FEW_COLUMNS = (1, 16, 17, 40)


def random_few_rows(
    variant: np.random.Generator, random: np.random.Generator, sizes: Sizes, device: str
) -> Case:
    dtype = random_dtype(variant, device)
    columns = int(variant.choice(COLUMNS if device != "cpu" else FEW_COLUMNS))
    inner = int(variant.choice((1, 64, 127, 512, 1024) if device != "cpu" else (1, 64, 130)))
    rows = int(random.integers(1, 18))
    x = torch.randn(rows, 2 * inner, device=device).to(dtype)[:, :inner]
    weight = (torch.randn(columns, inner, device=device) / inner**0.5).to(dtype)
    bias = torch.randn(columns, device=device).to(dtype) if random.random() < 0.5 else None
    wide = None if bias is None else bias.double()
    return Case(
        f"few_rows_linear {dtype} {rows} rows {inner} to {columns} biased {bias is not None}",
        dtype,
        lambda: kernels.small_batch_linear(x, weight, bias),
        lambda: kernels.small_batch_linear_reference(x.double(), weight.double(), wide),
    )
