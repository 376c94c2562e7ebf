"""Linking graphs for CUDA on a machine without a driver."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from precast.compiler.lowering.cuda_toolkit import build_driver_stub, needed_libraries

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="linking needs gcc")

_CALLER = """
int cuLaunchKernel(void);
int run(void) { return cuLaunchKernel(); }
"""


@pytest.mark.parametrize("flag", ["--as-needed", "--no-as-needed"])
def test_a_graph_names_the_driver_library(flag: str, tmp_path: Path) -> None:
    build_driver_stub(tmp_path)
    library = tmp_path / "graph.so"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,{flag}", "-L.", "-lcuda", "-o", str(library)]
    # gcc links standard input before the libraries, as it links the object files of a graph.
    subprocess.run(command, input=_CALLER, cwd=tmp_path, check=True, text=True)
    assert "libcuda.so.1" in needed_libraries(library)
