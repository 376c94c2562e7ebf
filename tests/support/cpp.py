"""Compiles C++ kernels outside a graph; each call of a graph becomes a function of a library."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precast.compiler.kernels.avx512.cpp import NUMBERS, Kernel, Operand, source

_NUMBERS = NUMBERS | {
    torch.int8: "int8_t",
    torch.int32: "int32_t",
    torch.int64: "int64_t",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class Form:
    """One instance of a kernel.

    Attributes:
        dtypes: Dtypes of its tensors by argument, the output under ``out``; None for an omitted argument.
        fixed: Arguments that are compiled in; all others are integers passed with each call.
    """

    dtypes: Mapping[str, torch.dtype | None]
    fixed: Mapping[str, Any] = field(default_factory=dict)


class Library:
    """A library with several forms of a kernel.

    Args:
        kernel: The kernel to compile.
        forms: Instances of the kernel.
        numbers: Names of the integer arguments passed with each call.
        defined: Macros to define.
    """

    def __init__(
        self,
        kernel: Kernel,
        forms: Sequence[Form],
        numbers: Sequence[str] = (),
        defined: Sequence[str] = (),
    ) -> None:
        self._forms, self._numbers = forms, numbers
        folder = Path(tempfile.mkdtemp(prefix="precast-kernel-"))
        calls = [
            f'extern "C" void form{index}(void** p, int64_t** s, int64_t** t, int64_t* n)'
            f" {{ {kernel.call(_operands(form), {**form.fixed, **_given(numbers)})} }}"
            for index, form in enumerate(forms)
        ]
        (folder / "kernel.cpp").write_text("\n".join([source(kernel.header), *calls]), "utf-8")
        home = Path(torch.__file__).parent
        torch_library = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{home / 'lib'}"]
        subprocess.run(
            ["g++", "-std=c++20", "-O2", "-march=native", "-fopenmp", "-shared", "-fPIC",
             f"-I{home / 'include'}", *(f"-D{name}" for name in defined), "kernel.cpp", "-o", "kernel.so",
             *torch_library], cwd=folder, check=True,
        )  # fmt: skip
        self._library = ctypes.CDLL(str(folder / "kernel.so"))

    def run(self, index: int, tensors: Mapping[str, Tensor | None], threads: int, **numbers: int) -> None:
        """Call form ``index`` with ``threads`` threads; it writes the tensor under ``out``."""
        form = self._forms[index]
        present = [tensors[name] for name in form.dtypes]
        pointers = (ctypes.c_void_p * len(present))(
            *[0 if tensor is None else tensor.data_ptr() for tensor in present]
        )
        sizes, strides = (
            [(ctypes.c_int64 * 4)(*([] if tensor is None else dims(tensor))) for tensor in present]
            for dims in (lambda tensor: tuple(tensor.shape), lambda tensor: tensor.stride())
        )
        tables = [(ctypes.c_void_p * len(part))(*map(ctypes.addressof, part)) for part in (sizes, strides)]
        given = (ctypes.c_int64 * max(1, len(self._numbers)))(*[numbers[name] for name in self._numbers])
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            getattr(self._library, f"form{index}")(pointers, *tables, given)
        finally:
            torch.set_num_threads(before)


def _given(numbers: Sequence[str]) -> dict[str, str]:
    return {name: f"n[{index}]" for index, name in enumerate(numbers)}


def _operands(form: Form) -> dict[str, Operand | None]:
    return {
        name: None
        if dtype is None
        else Operand(
            at=f"static_cast<{_NUMBERS[dtype]}*>(p[{index}])",
            dtype=dtype,
            sizes=tuple(f"s[{index}][{dim}]" for dim in range(_DIMS.get(name, 2))),
            strides=tuple(f"t[{index}][{dim}]" for dim in range(_DIMS.get(name, 2))),
        )
        for index, (name, dtype) in enumerate(form.dtypes.items())
    }


_DIMS = {"numbers": 3, "query": 3, "key": 3, "value": 3, "keys": 3, "values": 3, "panels": 4}
