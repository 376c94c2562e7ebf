"""The ``inductor`` backend for this machine's CPU: C++ kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precast.artifacts import host
from precast.compiler.kernels.avx512 import decode, linear, linear_int8, log_softmax, norm, packed
from precast.compiler.kernels.avx512.layers import WhichLinear, with_cpp_layers
from precast.compiler.lowering.autotune_log import autotune_log
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.cpp_kernels import install
from precast.compiler.lowering.inductor import compile_library
from precast.compiler.lowering.trace import trace
from precast.compiler.options import Kernels
from precast.graphs.signature import Signature

KERNELS = (
    linear.LINEAR,
    linear_int8.LINEAR_INT8,
    packed.ATTENTION,
    packed.POOL,
    decode.DECODE_ATTENTION,
    norm.NORM,
    log_softmax.LOG_SOFTMAX_TERMS,
)


def inductor_cpu(*, prepack: bool, autotune: bool | None, dtype: str, kernels: Kernels) -> Backend:
    """AOTInductor for this machine's CPU.

    Args:
        prepack: lay linear weights out for the processor's matrix units and keep them in the graph;
            otherwise they are bound by name when it is loaded.
        autotune: search for the fastest matrix multiplication; None does so where the processor has AMX
            tiles and the dtype is bf16, since only there Inductor's own templates win.
        dtype: of the weights.
        kernels: that the graphs were made for. With those for AVX-512 norms and linear layers are ours too,
            if they are prepacked; linear layers that are searched for are not.
    """
    if autotune is None:
        autotune = dtype == "bf16" and "amx_bf16" in host.instruction_sets()
    settings: dict[str, bool | int | str] = {"prepack": prepack, "autotune": autotune, "kernels": kernels}
    which: WhichLinear = "none" if not prepack else "quantized" if autotune else "all"
    rebuild = partial(with_cpp_layers, linear=which) if kernels == "avx512" else _as_it_is
    return Backend("inductor", ".so", settings, prepack, partial(_lower, prepack, autotune, rebuild))


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


def _lower(
    prepack: bool,
    autotune: bool,
    rebuild: Callable[[nn.Module], nn.Module],
    module: nn.Module,
    signature: Signature,
    size: int,
    folder: Path,
) -> Lowered:
    install(KERNELS)
    module = rebuild(module)
    searches: AbstractContextManager[dict[str, str]] = autotune_log() if autotune else nullcontext({})
    with searches as winners:
        exported = trace(module, signature, size)
        library, constants = compile_library(exported, _configuration(prepack, autotune), folder)
    if prepack:
        return Lowered(library, "prepacked", (), winners)
    return Lowered(library, "bound", constants, winners)


def _configuration(prepack: bool, autotune: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        # Inductor's own products take in what follows them, where torch lets ours be left out of that.
        "epilogue_fusion": autotune and torch.__version__ >= "2.13",
        # The thread count of the building machine would be compiled in otherwise.
        "cpp.dynamic_threads": True,
        "freezing": prepack,
        "aot_inductor.package_constants_in_so": prepack,
        # A bias of a few numbers would be written into the code, which other checkpoints share.
        "always_keep_tensor_constants": not prepack,
    }
    if autotune:
        config |= {
            "max_autotune": True,
            "max_autotune_gemm_backends": "CPP,ATEN",
            "max_autotune_report_choices_stats": False,
        }
    return config
