"""What a user may ask of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from precast.compiler.errors import CompileError
from precast.graphs.encode import Task

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class CompileOptions:
    """See ``precast.compile`` for what each one means."""

    model: str
    output: Path
    task: Task | Literal["auto"] = "auto"
    device: str = "cpu"
    dtype: Literal["fp32", "bf16"] = "fp32"
    backend: Literal["inductor", "reference"] = "inductor"
    max_length: int | None = None
    max_tokens: int | None = None
    max_batch: int = 512
    pooling: tuple[str, ...] | None = None
    revision: str | None = None
    prepack: bool = True
    autotune: bool | None = None
    verify: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        _one_of("task", self.task, ("auto", "embed", "classify", "rerank", "token-classify", "hidden"))
        _one_of("device", self.device, ("cpu",))
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("backend", self.backend, ("inductor", "reference"))
        for name in ("max_length", "max_tokens", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompileError(f"{name} must be positive, found {value}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CompileError(f"{name} must be one of {', '.join(allowed)}, found {value!r}")
