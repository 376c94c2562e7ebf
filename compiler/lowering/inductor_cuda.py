"""The ``inductor`` backend for CUDA: Triton kernels and cuBLAS, weights bound by name."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import select_algorithm

from precast.artifacts.manifest import sm_name
from precast.compiler.cache import cache_folder
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.inductor import compile_library
from precast.compiler.lowering.trace import trace
from precast.graphs.signature import Signature

TUNED_AT = (128, 1024, 8192)
"""Tokens for which kernels are searched: the best tile for a handful of rows is poor for thousands, and one
compiled graph has one choice for each multiplication."""


def inductor_cuda(*, capability: tuple[int, int], autotune: bool | None) -> Backend:
    """AOTInductor for the CUDA device of this machine.

    Args:
        capability: compute capability of the device.
        autotune: search among Triton's and cuBLAS' matrix multiplications; None does so. Without a search
            cuBLAS chooses by itself, for each bucket, when that is captured.
    """
    tune = autotune is not False
    settings = cuda_settings(capability, tune)
    lower = partial(_lower, cuda_configuration(tune))
    return Backend("inductor", ".so", settings, False, lower, TUNED_AT if tune else TUNED_AT[1:2])


def cuda_settings(capability: tuple[int, int], autotune: bool) -> dict[str, bool | int | str]:
    """What a compiled graph depends on besides the model, for the cache key and the manifest."""
    return {
        "device": "cuda",
        "architecture": sm_name(capability),
        "cuda": str(torch.version.cuda),
        "autotune": autotune,
        "ptx": _has_nvcc(),
    }


def cuda_configuration(autotune: bool) -> dict[str, Any]:
    """Inductor's settings: one library that holds its kernels and none of the weights."""
    config: dict[str, Any] = {
        "aot_inductor.package_constants_in_so": False,
        "aot_inductor.embed_kernel_binary": True,
        # Beside the machine code its PTX, where there is a compiler that joins the two.
        "aot_inductor.emit_multi_arch_kernel": _has_nvcc(),
    }
    if autotune:
        config |= {
            "max_autotune": True,
            "max_autotune_gemm_backends": "TRITON,ATEN",
            "max_autotune_report_choices_stats": False,
        }
    return config


def _lower(
    config: dict[str, Any], module: nn.Module, signature: Signature, tokens: int, folder: Path
) -> Lowered:
    # The caller keeps its module on the CPU: its weights go to the artifact from there.
    placed = copy.deepcopy(module).to("cuda")
    choices: dict[str, str] = {}
    with recorded_choices(choices):
        exported = trace(placed, signature, tokens, "cuda")
        library, constants = compile_library(exported, config, folder)
    return Lowered(library, "bound", constants, choices)


@contextmanager
def recorded_choices(choices: dict[str, str]) -> Iterator[None]:
    """Write into ``choices`` which kernel wins each search, and keep searches for the next build.

    Inductor stores the times of all candidates by shape and dtype in its cache folder and does not measure
    them again; that folder lies within ours.
    """

    def record(timings: dict[Any, float], name: str, inputs: list[Any], *rest: object) -> None:
        if timings:
            best = min(timings, key=lambda choice: timings[choice])
            shapes = " ".join("x".join(map(str, node.get_size())) for node in inputs)
            choices[f"{name} {shapes}"] = f"{best.name} {getattr(best, 'description', '')}".strip()

    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if before is None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "inductor")
    select_algorithm.add_feedback_saver(record)
    try:
        yield
    finally:
        select_algorithm.clear_feedback_savers()
        if before is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def _has_nvcc() -> bool:
    return shutil.which("nvcc") is not None
