"""What a user may ask of the compiler."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from precast.compiler.errors import CompileError
from precast.graphs.encode import Device, Dtype, Task

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_ARCHITECTURE = re.compile(r"cuda:sm_(\d{1,2})(\d)")


@dataclass(frozen=True)
class CompileOptions:
    """See ``precast.compile`` for what each one means."""

    model: str
    output: Path
    task: Task | Literal["auto"] = "auto"
    device: str = "cpu"
    dtype: Dtype = "fp32"
    backend: Literal["inductor", "reference"] = "inductor"
    max_length: int | None = None
    max_tokens: int | None = None
    max_batch: int | None = None
    max_target_length: int | None = None
    max_rows: int = 64
    traffic: Path | None = None
    graphs: int | None = None
    pooling: tuple[str, ...] | None = None
    revision: str | None = None
    prepack: bool = True
    autotune: bool | None = None
    verify: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        _one_of("task", self.task, ("auto", *get_args(Task)))
        if self.architecture is None and self.device not in ("cpu", "cuda"):
            raise CompileError(
                f"device must be cpu, cuda or, without a GPU, cuda:sm_90, found {self.device!r}"
            )
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("backend", self.backend, ("inductor", "reference"))
        if self.device_kind == "cuda" and self.backend == "reference":
            raise CompileError("the reference backend runs on cpu; expected device cpu or backend inductor")
        if self.device_kind == "cpu" and self.dtype == "fp16":
            raise CompileError("fp16 is for cuda; on a cpu choose fp32 or bf16")
        if self.architecture is not None and self.verify:
            raise CompileError(
                f"device {self.device} builds without a GPU, so nothing can be verified: pass --no-verify"
            )
        for name in ("max_length", "max_tokens", "max_batch", "max_target_length", "max_rows", "graphs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompileError(f"{name} must be positive, found {value}")
        if self.max_target_length == 1:
            raise CompileError("max_target_length counts the start token: expected 2 or more, found 1")

        if self.graphs is not None and self.traffic is None:
            raise CompileError("graphs is for a ladder that is fitted: pass traffic too, or leave it out")

    @property
    def device_kind(self) -> Device:
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def architecture(self) -> tuple[int, int] | None:
        """The compute capability to build for without a device: ``cuda:sm_90`` is ``(9, 0)``."""
        found = _ARCHITECTURE.fullmatch(self.device)
        return None if found is None else (int(found[1]), int(found[2]))

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CompileError(f"{name} must be one of {', '.join(allowed)}, found {value!r}")
