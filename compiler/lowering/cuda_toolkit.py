"""The headers, compiler and libraries that a graph for CUDA is built with.

Where the system has no CUDA toolkit, the parts that came with torch's own packages serve as one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from precast.compiler.errors import LoweringError

_DRIVER_FUNCTIONS = (
    "cuGetErrorString",
    "cuModuleLoad",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
)
"""What generated code calls of ``libcuda``."""
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^\]]+)\]")


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


def needed_libraries(library: Path) -> tuple[str, ...]:
    """The shared libraries that the dynamic linker loads together with ``library``.

    Raises:
        LoweringError: it is no shared library, or readelf is missing.
    """
    try:
        done = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoweringError(f"{library.name} cannot be read with readelf: {error}") from error
    return tuple(_NEEDED.findall(done.stdout))


def build_driver_stub(folder: Path) -> None:
    """Write ``folder/libcuda.so`` to link against; the driver brings the real library when a graph is loaded.

    The stub defines the functions that graphs call: a linker that drops libraries without a used symbol
    (``--as-needed``, the default of many distributions) would otherwise drop ``libcuda`` from the graph, and
    nothing would load it.

    Raises:
        LoweringError: there is no C compiler.
    """
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in _DRIVER_FUNCTIONS)
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so"]
    try:
        subprocess.run(command, input=source, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoweringError(f"building for CUDA needs gcc, which failed: {error}") from error


@contextmanager
def _linkable(folder: Path) -> Iterator[None]:
    stub = folder / "stub"
    stub.mkdir()
    build_driver_stub(stub)
    paths = [*filter(None, [os.environ.get("LIBRARY_PATH")]), str(stub)]
    try:
        with patch.dict(os.environ, {"LIBRARY_PATH": os.pathsep.join(paths)}):
            yield
    finally:
        shutil.rmtree(stub)
