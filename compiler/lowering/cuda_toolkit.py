"""The headers, compiler and libraries that a graph for CUDA is built with.

Where the system has no CUDA toolkit, the parts that came with torch's own packages serve as one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from precast.compiler.errors import LoweringError


def has_nvcc() -> bool:
    """Whether kernels can be kept as PTX beside their machine code: joining the two is nvcc's work."""
    with _paths():
        return shutil.which("nvcc") is not None


@contextmanager
def toolkit(folder: Path) -> Iterator[None]:
    """Let Inductor find CUDA's headers and something to link against.

    Args:
        folder: to write into.

    Raises:
        LoweringError: there is no C compiler.
    """
    with _paths(), _linkable(folder):
        yield


@contextmanager
def _paths() -> Iterator[None]:
    home = _packaged()
    if (
        home is None
        or shutil.which("nvcc")
        or os.environ.get("CUDA_HOME")
        or Path("/usr/local/cuda").exists()
    ):
        yield
        return
    from torch.utils import cpp_extension

    paths = {"CUDA_HOME": str(home), "PATH": os.pathsep.join((str(home / "bin"), os.environ.get("PATH", "")))}
    with patch.dict(os.environ, paths), patch.object(cpp_extension, "CUDA_HOME", str(home)):
        yield


def _packaged() -> Path | None:
    """The folder of NVIDIA's packages for the CUDA release of this torch."""
    spec = find_spec("nvidia")
    release = str(torch.version.cuda).partition(".")[0]
    found = (Path(root, f"cu{release}") for root in (spec.submodule_search_locations if spec else None) or ())
    return next((home for home in found if (home / "include" / "cuda_runtime_api.h").exists()), None)


@contextmanager
def _linkable(folder: Path) -> Iterator[None]:
    """An empty ``libcuda``: the real one comes with a driver, which is there when the graph is loaded."""
    stub = folder / "stub"
    stub.mkdir()
    command = ["gcc", "-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so"]
    try:
        subprocess.run(command, cwd=stub, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoweringError(f"building for CUDA needs gcc, which failed: {error}") from error
    paths = [*filter(None, [os.environ.get("LIBRARY_PATH")]), str(stub)]
    try:
        with patch.dict(os.environ, {"LIBRARY_PATH": os.pathsep.join(paths)}):
            yield
    finally:
        shutil.rmtree(stub)
