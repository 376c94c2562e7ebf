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
        LoweringError: there are no headers, or there is no C compiler.
    """
    with _paths(), _linkable(folder):
        yield


@contextmanager
def _paths() -> Iterator[None]:
    from torch.utils import cpp_extension

    # torch takes the folder above nvcc's for the toolkit's, also where nvcc is a link from elsewhere.
    guesses = [cpp_extension.CUDA_HOME, "/usr/local/cuda", *_packaged()]
    home = next(
        (Path(guess) for guess in guesses if guess and Path(guess, "include", "cuda.h").exists()), None
    )
    if home is None:
        raise LoweringError(
            "building for CUDA needs its headers, found none in CUDA_HOME, /usr/local/cuda or NVIDIA's "
            "packages; install the CUDA toolkit and set CUDA_HOME, or pip install nvidia-cuda-cccl, "
            "nvidia-cuda-crt and nvidia-cuda-nvcc of torch's CUDA release"
        )
    found = os.environ.get("PATH", "")
    paths = {"CUDA_HOME": str(home), "PATH": os.pathsep.join((str(home / "bin"), found))}
    with patch.dict(os.environ, paths), patch.object(cpp_extension, "CUDA_HOME", str(home)):
        yield


def _has_headers(home: str) -> bool:
    """Those of the driver, and those that its 16-bit numbers need, which come in a package of their own."""
    return all(Path(home, "include", name).exists() for name in ("cuda.h", "nv/target"))


def _packaged() -> list[str]:
    """Folders of NVIDIA's packages for the CUDA release of this torch."""
    spec = find_spec("nvidia")
    release = str(torch.version.cuda).partition(".")[0]
    roots = spec.submodule_search_locations if spec else None
    return [str(Path(root, f"cu{release}")) for root in roots or ()]


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
