"""AOTInductor on every device: one shared library for each graph, and the names of its weights."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from precast.compiler.errors import LoweringError
from precast.compiler.lowering.cpp_build import cpp_build

_CONSTANT = re.compile(r'constants_info_\[\d+\]\.original_fqn = "([^"]+)";')


def compile_library(
    exported: ExportedProgram, config: dict[str, Any], folder: Path, optimize: bool = True
) -> tuple[Path, tuple[str, ...]]:
    """Compile a traced graph to ``folder/graph.so``.

    Args:
        exported: the graph.
        config: Inductor's settings.
        folder: the directory to write into.
        optimize: whether to spend time on a CPU's kernels.

    Returns:
        The library, and the names of the tensors that its code reads, sorted.

    Raises:
        LoweringError: Inductor or the C++ compiler failed.
    """
    package = folder / "graph.pt2"
    with torch.no_grad(), cpp_build(optimize), warnings.catch_warnings():
        # torch warns of its own deprecated functions.
        warnings.simplefilter("ignore")
        try:
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(package), inductor_configs=config
            )
        except Exception as error:  # Inductor may raise anything, also for a failed g++
            raise LoweringError(f"the graph cannot be compiled: {error}") from error
    with zipfile.ZipFile(package) as archive:
        library = folder / "graph.so"
        library.write_bytes(archive.read(_library_in(archive)))
        constants = _constants_in(archive)
    package.unlink()
    return library, constants


def _library_in(archive: zipfile.ZipFile) -> str:
    """Return the name of the shared library inside a ``.pt2``.

    Raises:
        LoweringError: there is not exactly one, or the graph calls operators that have no C interface and
            would need torch's Python-side executor.
    """
    names = archive.namelist()
    libraries = [name for name in names if name.endswith(".so")]
    helpers = [
        name for name in names if name.endswith((".json", ".cubin")) and not name.endswith("_metadata.json")
    ]
    if len(libraries) != 1 or helpers:
        raise LoweringError(
            f"expected one shared library and nothing beside it, found {libraries} and {helpers}"
        )
    return libraries[0]


def _constants_in(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """Read the constants from the generated source: a library for an absent device cannot be loaded."""
    sources = [name for name in archive.namelist() if name.endswith(".wrapper.cpp")]
    if len(sources) != 1:
        raise LoweringError(f"expected the source of one graph, found {sources}")
    return tuple(sorted(_CONSTANT.findall(archive.read(sources[0]).decode("utf-8"))))
