"""``CompileOptions``: the options of the compiler, from which API, command line and docs are generated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from precast.compiler.errors import CompileError
from precast.graphs.encode import Device, Dtype, Quantization, Task

DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_ARCHITECTURE = re.compile(r"cuda:sm_(\d{1,2})(\d)")


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class CompileOptions:
    """The options of ``precast.compile``; each field's metadata holds its help text.

    Raises:
        CompileError: An option has an invalid value, or options contradict each other.
    """

    model: str
    output: Path
    task: Task | Literal["auto"] = _option(
        "auto",
        "Task of the model; auto detects it from the checkpoint. Encoder-decoders have the task generate.",
    )
    device: str = _option(
        "cpu",
        "cpu; cuda for the GPU of this machine; cuda:sm_90 (or another architecture) to compile without a "
        "GPU, untuned and unverified.",
    )
    dtype: Dtype = _option("fp32", "Dtype of weights and computation; fp16 is for CUDA.")
    quantize: Quantization | None = _option(
        None,
        "int8: round the weights and inputs of linear layers to eight bits, on a CPU with AVX-512 VNNI. "
        "Outputs have a cosine of at least 0.99 to Hugging Face's in fp32.",
    )
    backend: str = _option("inductor", "inductor, or reference: portable and slow.")
    max_length: int | None = _option(
        None,
        "Tokens of one input, or of one source of an encoder-decoder. Default: the checkpoint's limit, 512 "
        "for sources if it states none.",
    )
    max_tokens: int | None = _option(
        None,
        "Tokens of a packed batch. Default: 16384, 4096 for sources, and at least max_length.",
    )
    max_batch: int | None = _option(None, "Inputs of a packed batch. Default: 512, 64 for sources.")
    max_target_length: int | None = _option(
        None,
        "Task generate: positions of one output, counting start token, prefix and generated tokens. Default: "
        "512, or the length in the checkpoint's generation_config.json if that is more; at most the "
        "decoder's positions.",
    )
    max_num_seqs: int = _option(
        64, "Task generate: sequences decoded simultaneously. A request has one per beam or sample."
    )
    workload: Path | None = _option(
        None,
        "JSON file with expected input lengths, to fit the buckets to: a list of lengths in tokens, or "
        '{"lengths": {"12": 340}, "concurrency": {"1": 90, "32": 1}}, which counts how often each length '
        "and each number of simultaneous inputs occurs.",
    )
    max_buckets: int | None = _option(
        None,
        "With a workload: maximum number of buckets, on CUDA each a captured graph. Default: as many as "
        "without a workload.",
    )
    pooling: tuple[str, ...] | None = _option(
        None, "Task embed: pooling modes that replace the checkpoint's; several are concatenated."
    )
    revision: str | None = _option(None, "Revision of a model on the Hugging Face hub.")
    prepack: bool = _option(
        True, "CPU: store weights inside the graphs, in the layout that is fastest on this processor."
    )
    autotune: bool | None = _option(
        None,
        "Search for the fastest matrix multiplications. Default: on CUDA, and in bf16 with AMX.",
    )
    verify: bool = _option(True, "Compare with Hugging Face before the artifact is published.")
    check_speed: bool = _option(
        True,
        "With quantize: refuse the artifact unless it is faster on this machine than the unquantized "
        "model, which is compiled for the comparison. Needs verify.",
    )
    overwrite: bool = _option(False, "Replace an artifact that exists at the output path.")

    def __post_init__(self) -> None:
        _one_of("task", self.task, ("auto", *get_args(Task)))
        _one_of("dtype", self.dtype, tuple(DTYPES))
        if self.quantize is not None:
            _one_of("quantize", self.quantize, get_args(Quantization))
        if self.architecture is None and self.device not in ("cpu", "cuda"):
            raise CompileError(
                f"device must be cpu, cuda or, without a GPU, like cuda:sm_90, found {self.device!r}"
            )
        if self.architecture is not None and self.verify:
            raise CompileError(
                f"device {self.device} compiles without a GPU and cannot be verified: pass --no-verify"
            )
        for name in (
            "max_length",
            "max_tokens",
            "max_batch",
            "max_target_length",
            "max_num_seqs",
            "max_buckets",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompileError(f"{name} must be positive, found {value}")
        if self.max_target_length == 1:
            raise CompileError("max_target_length counts the start token: expected 2 or more, found 1")
        if self.max_buckets is not None and self.workload is None:
            raise CompileError(
                "max_buckets limits the buckets fitted to a workload: pass workload or remove max_buckets"
            )

    @property
    def device_kind(self) -> Device:
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def architecture(self) -> tuple[int, int] | None:
        """The compute capability to build for without a device: ``cuda:sm_90`` is ``(9, 0)``."""
        parts = _ARCHITECTURE.fullmatch(self.device)
        return None if parts is None else (int(parts[1]), int(parts[2]))

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise CompileError(f"{name} must be one of {', '.join(allowed)}, found {value!r}")
