"""The ``inductor`` backend: AOTInductor, C++ on a CPU, as one shared library a graph."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from precast.artifacts import host
from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.trace import trace
from precast.graphs.signature import Signature


def inductor_cpu(*, prepack: bool, autotune: bool | None, dtype: str) -> Backend:
    """AOTInductor for this machine's CPU.

    Args:
        prepack: lay linear weights out for the processor's matrix units and keep them in the graph;
            otherwise they are bound by name when it is loaded.
        autotune: search for the fastest matrix multiplication; None does so where the processor has AMX
            tiles and the dtype is bf16, since only there Inductor's own templates win.
        dtype: of the weights.
    """
    if autotune is None:
        autotune = dtype == "bf16" and "amx_bf16" in host.instruction_sets()
    settings: dict[str, bool | int | str] = {"prepack": prepack, "autotune": autotune}
    return Backend("inductor", ".so", settings, prepack, partial(_lower, prepack, autotune))


def _lower(prepack: bool, autotune: bool, module: nn.Module, signature: Signature, folder: Path) -> Lowered:
    exported = trace(module, signature)
    package = folder / "graph.pt2"
    with torch.no_grad():
        try:
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(package), inductor_configs=_configuration(prepack, autotune)
            )
        except Exception as error:  # the compiler stack raises anything, a failed g++ included
            raise LoweringError(f"graph {signature.graph} cannot be compiled: {error}") from error
    library = _library(package, folder / "graph.so")
    package.unlink()
    if prepack:
        return Lowered(library, "prepacked", ())
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
    names = runner.get_constant_names_to_original_fqns().values()
    return Lowered(library, "bound", tuple(sorted(names)))


def _configuration(prepack: bool, autotune: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        # The thread count of the building machine would be compiled in otherwise.
        "cpp.dynamic_threads": True,
        "freezing": prepack,
        "aot_inductor.package_constants_in_so": prepack,
    }
    if autotune:
        config |= {
            "max_autotune": True,
            "max_autotune_gemm_backends": "CPP,ATEN",
            "max_autotune_report_choices_stats": False,
        }
    return config


def _library(package: Path, target: Path) -> Path:
    """Take the shared library out of a ``.pt2``.

    Raises:
        LoweringError: there is not exactly one, or the graph calls operators that have no C entry and
            would need torch's Python-side executor.
    """
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        libraries = [name for name in names if name.endswith(".so")]
        helpers = [name for name in names if name.endswith(".json") and not name.endswith("_metadata.json")]
        if len(libraries) != 1 or helpers:
            raise LoweringError(
                f"expected one shared library and nothing beside it, found {libraries} and {helpers}"
            )
        target.write_bytes(archive.read(libraries[0]))
    return target
