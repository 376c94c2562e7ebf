"""What a user may ask of the compiler."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from precast.artifacts import host
from precast.compiler.errors import CompileError
from precast.graphs.encode import Device, Dtype, Quantization, Task

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
Kernels = Literal["torch", "avx512", "triton"]
"""Plain operators of torch, our C++ for AVX-512, our Triton kernels."""
_AVX512: dict[Dtype, frozenset[str]] = {
    "fp32": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
    "bf16": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"}),
}
"""Instruction sets that our C++ kernels need."""
_ARCHITECTURE = re.compile(r"cuda:sm_(\d{1,2})(\d)")


@dataclass(frozen=True)
class CompileOptions:
    """See ``precast.compile`` for what each one means."""

    model: str
    output: Path
    task: Task | Literal["auto"] = "auto"
    device: str = "cpu"
    dtype: Dtype = "fp32"
    quantize: Quantization | None = None
    backend: Literal["inductor", "reference"] = "inductor"
    max_length: int | None = None
    max_tokens: int | None = None
    max_batch: int | None = None
    max_target_length: int | None = None
    max_num_seqs: int = 64
    workload: Path | None = None
    graphs: int | None = None
    pooling: tuple[str, ...] | None = None
    revision: str | None = None
    prepack: bool = True
    autotune: bool | None = None
    verify: bool = True
    check_speed: bool = True
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
        if self.quantize is not None:
            self._check_quantization()
        if self.architecture is not None and self.verify:
            raise CompileError(
                f"device {self.device} builds without a GPU, so nothing can be verified: pass --no-verify"
            )
        for name in ("max_length", "max_tokens", "max_batch", "max_target_length", "max_num_seqs", "graphs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompileError(f"{name} must be positive, found {value}")
        if self.max_target_length == 1:
            raise CompileError("max_target_length counts the start token: expected 2 or more, found 1")
        if self.graphs is not None and self.workload is None:
            raise CompileError("graphs is for a buckets that is fitted: pass workload too, or leave it out")

    def _check_quantization(self) -> None:
        _one_of("quantize", self.quantize, get_args(Quantization))
        if self.device_kind == "cuda":
            raise CompileError("quantize is for the cpu; on cuda choose dtype bf16 or fp16")
        missing = sorted((_AVX512[self.dtype] | {"avx512_vnni"}) - host.instruction_sets())
        if self.backend == "inductor" and missing:
            raise CompileError(
                f"quantize needs a processor with {', '.join(missing)}, which this one has not; leave it out"
            )
        if self.backend == "inductor" and not self.prepack:
            raise CompileError("quantize lays weights out in the graph; expected prepack, found --no-prepack")

    @property
    def device_kind(self) -> Device:
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def kernels(self) -> Kernels:
        """What computes the operations that devices do in their own ways."""
        if self.device_kind == "cuda":
            return "triton"
        fits = self.backend == "inductor" and _AVX512[self.dtype] <= host.instruction_sets()
        return "avx512" if fits else "torch"

    @property
    def architecture(self) -> tuple[int, int] | None:
        """The compute capability to build for without a device: ``cuda:sm_90`` is ``(9, 0)``."""
        found = _ARCHITECTURE.fullmatch(self.device)
        return None if found is None else (int(found[1]), int(found[2]))

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CompileError(f"{name} must be one of {', '.join(allowed)}, found {value!r}")
