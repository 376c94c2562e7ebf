"""The ``inductor`` backend for CUDA: Triton kernels and cuBLAS, weights bound by name."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precast.artifacts.build_info import sm_name
from precast.compiler.lowering.autotune_log import autotune_log
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.lowering.cuda_toolkit import has_nvcc, toolkit
from precast.compiler.lowering.inductor import compile_library
from precast.compiler.lowering.trace import trace
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Signature

_TOKENS = (128, 1024, 8192)
_SEQUENCES = (4, 32, 256)


def sizes(autotune: bool) -> dict[GraphName, tuple[int, ...]]:
    """For which sizes each graph with weights is compiled.

    The best kernels for a handful of rows are poor for many, and one compiled graph has one choice for each
    multiplication. Without a search cuBLAS chooses by itself, for each bucket, when that is captured; how
    many programs share the keys of a decoder's row is fixed in the code all the same.
    """
    tokens = _TOKENS if autotune else _TOKENS[1:2]
    return {GraphName.ENCODE: tokens, GraphName.ENCODE_SOURCE: tokens, GraphName.DECODE: _SEQUENCES}


def inductor_cuda(*, capability: tuple[int, int], autotune: bool | None) -> Backend:
    """AOTInductor for the CUDA device of this machine.

    Args:
        capability: compute capability of the device.
        autotune: search among Triton's and cuBLAS' matrix multiplications; None does so.
    """
    tune = autotune is not False
    settings = cuda_settings(capability, tune)
    lower = partial(_lower, cuda_configuration(tune))
    return Backend("inductor", ".so", settings, False, lower, sizes(tune), times_kernels=tune)


def cuda_settings(capability: tuple[int, int], autotune: bool) -> dict[str, bool | int | str]:
    """What a compiled graph depends on besides the model, for the cache key and the manifest."""
    return {
        "device": "cuda",
        "architecture": sm_name(capability),
        "cuda": str(torch.version.cuda),
        "autotune": autotune,
        "ptx": has_nvcc(),
    }


def cuda_configuration(autotune: bool) -> dict[str, Any]:
    """Inductor's settings: one library that holds its kernels and none of the weights."""
    config: dict[str, Any] = {
        "aot_inductor.package_constants_in_so": False,
        # A bias of a few numbers would be written into the code, which other checkpoints share.
        "always_keep_tensor_constants": True,
        "aot_inductor.embed_kernel_binary": True,
        # Beside the machine code its PTX, where there is a compiler that joins the two.
        "aot_inductor.emit_multi_arch_kernel": has_nvcc(),
    }
    if autotune:
        config |= {
            "max_autotune": True,
            "max_autotune_gemm_backends": "TRITON,ATEN",
            "max_autotune_report_choices_stats": False,
        }
    return config


def _lower(
    config: dict[str, Any], module: nn.Module, signature: Signature, size: int, folder: Path
) -> CompiledFile:
    # The caller keeps its module on the CPU: its weights go to the artifact from there.
    placed = copy.deepcopy(module).to("cuda")
    with autotune_log() as winners, toolkit(folder):
        exported = trace(placed, signature, size, "cuda")
        library, constants = compile_library(exported, config, folder)
    return CompiledFile(library, "bound", constants, winners)
