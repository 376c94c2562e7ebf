"""The precisions that are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import precast

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def compile_as(
    model: Path,
    output: Path,
    precision: Precision,
    backend: Literal["inductor", "reference"] = "inductor",
) -> None:
    """Compile for the CPU and replace ``output``; with ``int8``, all but linear layers are in bf16."""
    if precision == "int8":
        precast.compile(
            model, output, dtype="bf16", quantize="int8", backend=backend, check_speed=False, overwrite=True
        )
    else:
        precast.compile(model, output, dtype=precision, backend=backend, overwrite=True)
