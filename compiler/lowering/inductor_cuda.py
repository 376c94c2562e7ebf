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
    """Return the sizes for which each graph with weights is compiled, one variant each.

    The best kernels for small batches are poor for large ones, and a compiled graph has one kernel for each
    matrix multiplication. Without autotuning, cuBLAS selects kernels for each captured bucket, but the number
    of programs that share the keys of one decoder sequence is still fixed in the compiled code.
    """
    tokens = _TOKENS if autotune else _TOKENS[1:2]
    return {GraphName.ENCODE: tokens, GraphName.ENCODE_SOURCE: tokens, GraphName.DECODE: _SEQUENCES}


def inductor_cuda(*, capability: tuple[int, int], autotune: bool | None) -> Backend:
    """Return the backend that compiles with AOTInductor for the CUDA device of this machine.

    Args:
        capability: Compute capability of the device.
        autotune: Whether to time the matrix multiplications of Triton and cuBLAS; None means True.
    """
    tune = autotune is not False
    settings = cuda_settings(capability, tune)
    lower = partial(_lower, cuda_configuration(tune))
    return Backend("inductor", ".so", settings, False, lower, sizes(tune), times_kernels=tune)


def cuda_settings(capability: tuple[int, int], autotune: bool) -> dict[str, bool | int | str]:
    """Return what a compiled graph depends on besides the model, for the cache key and the manifest."""
    return {
        "device": "cuda",
        "architecture": sm_name(capability),
        "cuda": str(torch.version.cuda),
        "autotune": autotune,
        "ptx": has_nvcc(),
    }


def cuda_configuration(autotune: bool) -> dict[str, Any]:
    """Return Inductor's settings: one library with all kernels and without weights."""
    config: dict[str, Any] = {
        "aot_inductor.package_constants_in_so": False,
        # A small bias would become part of the code, which is cached for checkpoints with other weights.
        "always_keep_tensor_constants": True,
        "aot_inductor.embed_kernel_binary": True,
        # Stores PTX next to the machine code.
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
    # The caller writes the weights of its module from CPU memory, so only a copy moves to the device.
    on_device = copy.deepcopy(module).to("cuda")
    with autotune_log() as winners, toolkit(folder):
        exported = trace(on_device, signature, size, "cuda")
        library, constants = compile_library(exported, config, folder)
    return CompiledFile(library, "bound", constants, winners)
