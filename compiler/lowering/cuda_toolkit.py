"""Headers, compiler and libraries for compiling graphs for CUDA.

Without a CUDA toolkit on the system, the parts in the packages that torch depends on are used.
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
"""Functions of ``libcuda`` that generated code calls."""
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^\]]+)\]")


def has_nvcc() -> bool:
    """Return whether nvcc is available, which is needed to store PTX next to machine code."""
    with _paths():
        return shutil.which("nvcc") is not None


@contextmanager
def toolkit(folder: Path) -> Iterator[None]:
    """Set the environment such that Inductor finds CUDA's headers and a library to link against.

    Args:
        folder: Folder to write the stub library to.

    Raises:
        LoweringError: The CUDA headers or a C compiler are missing.
    """
    with _paths(), _linkable(folder):
        yield


@contextmanager
def _paths() -> Iterator[None]:
    from torch.utils import cpp_extension

    # torch takes the parent of nvcc's folder for the toolkit, which is wrong if nvcc is a link.
    candidates = [cpp_extension.CUDA_HOME, "/usr/local/cuda", *_packaged()]
    home = next(
        (Path(path) for path in candidates if path and Path(path, "include", "cuda.h").exists()), None
    )
    if home is None:
        raise LoweringError(
            "compiling for CUDA needs its headers, found none in CUDA_HOME, /usr/local/cuda or NVIDIA's "
            "packages; install the CUDA toolkit and set CUDA_HOME, or pip install nvidia-cuda-cccl, "
            "nvidia-cuda-crt and nvidia-cuda-nvcc of torch's CUDA release"
        )
    search_path = os.environ.get("PATH", "")
    paths = {"CUDA_HOME": str(home), "PATH": os.pathsep.join((str(home / "bin"), search_path))}
    with patch.dict(os.environ, paths), patch.object(cpp_extension, "CUDA_HOME", str(home)):
        yield


def _has_headers(home: str) -> bool:
    """Return whether a folder has CUDA's headers, including those that are packaged separately."""
    return all(Path(home, "include", name).exists() for name in ("cuda.h", "nv/target"))


def _packaged() -> list[str]:
    """Return the folders of NVIDIA's packages for torch's CUDA release."""
    spec = find_spec("nvidia")
    release = str(torch.version.cuda).partition(".")[0]
    roots = spec.submodule_search_locations if spec else None
    return [str(Path(root, f"cu{release}")) for root in roots or ()]


def needed_libraries(library: Path) -> tuple[str, ...]:
    """Return the shared libraries that the dynamic linker loads with ``library``.

    Raises:
        LoweringError: The file is not a shared library, or readelf is missing.
    """
    try:
        done = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoweringError(f"{library.name} cannot be read with readelf: {error}") from error
    return tuple(_NEEDED.findall(done.stdout))


def build_driver_stub(folder: Path) -> None:
    """Write ``folder/libcuda.so`` to link against; the driver's own library is used when a graph is loaded.

    The stub defines the functions that graphs call: a linker that drops libraries without a used symbol
    (``--as-needed``, the default of many distributions) would otherwise drop ``libcuda``, which would then be
    missing when a graph is loaded.

    Raises:
        LoweringError: There is no C compiler, or it failed.
    """
    source = "".join(f"int {name}(void) {{ return 0; }}\n" for name in _DRIVER_FUNCTIONS)
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so"]
    try:
        subprocess.run(command, input=source, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LoweringError(f"compiling for CUDA needs gcc, which failed: {error}") from error


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
