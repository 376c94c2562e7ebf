"""The ``inductor`` backend for this machine's CPU: C++ kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precast.artifacts import host
from precast.compiler.kernels.avx512.cpp import Kernel
from precast.compiler.lowering.autotune_log import autotune_log
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.lowering.cpp_build import fast_settings
from precast.compiler.lowering.cpp_kernels import install
from precast.compiler.lowering.inductor import compile_library
from precast.compiler.lowering.trace import trace
from precast.graphs.encode import Dtype
from precast.graphs.signature import Signature


def searches_by_default(dtype: Dtype) -> bool:
    """Return whether Inductor's matrix multiplications are faster than ours here: only with AMX in bf16."""
    return dtype == "bf16" and "amx_bf16" in host.instruction_sets()


def inductor_cpu(
    *,
    prepack: bool,
    autotune: bool | None,
    dtype: Dtype,
    kernels: tuple[Kernel, ...] = (),
    replace_layers: Callable[[nn.Module], nn.Module] | None = None,
) -> Backend:
    """Return AOTInductor for this machine's CPU.

    Args:
        prepack: store linear weights in the graph, in the layout of the processor's matrix units; otherwise
            they are bound by name at load time.
        autotune: search for the fastest matrix multiplications; None for ``searches_by_default``.
        dtype: dtype of the weights.
        kernels: C++ kernels that Inductor builds into the graph.
        replace_layers: replaces layers of a module by ones that call these kernels.
    """
    searches = searches_by_default(dtype) if autotune is None else autotune
    settings: dict[str, bool | int | str] = {
        "prepack": prepack,
        "autotune": searches,
        "kernels": ",".join(k.header for k in kernels),
    }
    compile_ = _Compile(prepack, searches, kernels, replace_layers)
    return Backend("inductor", ".so", settings, prepack, compile_, times_kernels=searches)


@dataclass(frozen=True)
class _Compile:
    prepack: bool
    autotune: bool
    kernels: tuple[Kernel, ...]
    replace_layers: Callable[[nn.Module], nn.Module] | None

    def __call__(self, module: nn.Module, signature: Signature, size: int, folder: Path) -> CompiledFile:
        install(self.kernels)
        if self.replace_layers is not None:
            module = self.replace_layers(module)
        searches: AbstractContextManager[dict[str, str]] = (
            autotune_log() if self.autotune else nullcontext({})
        )
        with searches as winners:
            exported = trace(module, signature, size)
            # Otherwise sampling graphs compile up to four times as long; they are a small part of a step.
            has_weights = any(True for _ in module.parameters())
            library, constants = compile_library(exported, self._configuration(), folder, has_weights)
        if self.prepack:
            return CompiledFile(library, "prepacked", (), winners)
        return CompiledFile(library, "bound", constants, winners)

    def _configuration(self) -> dict[str, Any]:
        config: dict[str, Any] = fast_settings() | {
            # Inductor's own GEMMs can fuse their epilogue; custom kernels can be excluded only since 2.13.
            "epilogue_fusion": self.autotune and torch.__version__ >= "2.13",
            # Otherwise the thread count of this machine would be compiled in.
            "cpp.dynamic_threads": True,
            "freezing": self.prepack,
            "aot_inductor.package_constants_in_so": self.prepack,
            # Otherwise small constants become part of the code, which other checkpoints share.
            "always_keep_tensor_constants": not self.prepack,
        }
        if self.autotune:
            config |= {
                "max_autotune": True,
                "max_autotune_gemm_backends": "CPP,ATEN",
                "max_autotune_report_choices_stats": False,
            }
        return config
