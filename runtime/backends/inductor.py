"""A graph that AOTInductor compiled, called through the C interface of its shared library.

torch's own Python runners do the same but hold the interpreter lock while the graph runs, so that
nothing could be tokenized meanwhile; ctypes lets go of it. A plain ``.so`` is loaded in place, where a
``.pt2`` would be unpacked into a temporary folder first. The interface is declared in torch's
``torch/csrc/inductor/aoti_runtime/interface.h``.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C import _aoti
from torch.utils._python_dispatch import _disable_current_modes

from precast.graphs.signature import Signature
from precast.runtime.errors import GraphError

_Handle = ctypes.c_void_p
_PREFIX = "AOTInductorModelContainer"
_PADDED = 64
"""A graph states the bytes of its weights rounded up to a multiple of this."""

_lock = threading.Lock()
_spellings = itertools.count(1)
_digests: dict[tuple[int, int], str] = {}
"""SHA-256 of each library that was loaded, by the device and inode of its file."""

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


class _Constant(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("tensor", _Handle)]


class InductorGraph:
    """A compiled graph with its weights bound.

    Args:
        path: the shared library. It runs code as soon as it is loaded: check its hash before.
        signature: its inputs and outputs, in call order.
        weights: tensors to bind by name without a copy, on ``device``; exactly those that the graph lacks.
            None for a graph that carries its own.
        digest: SHA-256 of the library, from the manifest.
        device: ``cpu``, or ``cuda:0`` for the device of this index. There a call puts its work on the
            current stream and returns; it may be captured, once it has run.

    Raises:
        GraphError: the library cannot be loaded, or its inputs, outputs or weights are not as stated.
    """

    def __init__(
        self,
        path: Path,
        signature: Signature,
        weights: Mapping[str, Tensor] | None,
        digest: str,
        device: str = "cpu",
    ) -> None:
        self._library = _Library(path, digest)
        self._names = [buffer.name for buffer in signature.inputs]
        self._outputs = len(signature.outputs)
        self._container = _Handle()
        self._stream = _stream_of(torch.device(device))
        self._call(
            "CreateWithDevice", ctypes.byref(self._container), ctypes.c_size_t(1), device.encode(), None
        )
        self._run = self._function("RunSingleThreaded")
        self._bound: list[Tensor] = []
        self._handles: list[Any] = []
        self._finalizer = weakref.finalize(
            self, _release, self._library, self._container, self._bound, self._handles
        )
        counts = (self._count("GetNumInputs"), self._count("GetNumOutputs"))
        if counts != (len(self._names), self._outputs):
            raise GraphError(
                f"{path.name} has {counts[0]} inputs and {counts[1]} outputs, its manifest says "
                f"{len(self._names)} and {self._outputs}; compile the artifact again"
            )
        if weights is None:
            self._check_carried(path.name)
        else:
            self._bind(weights)

    def __call__(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        handles = _aoti.unsafe_alloc_void_ptrs_from_tensors([inputs[name] for name in self._names])
        given = (_Handle * len(handles))(*[_capsule_pointer(handle, None) for handle in handles])
        taken = (_Handle * self._outputs)()
        # Nobody else calls this graph meanwhile; the function for many threads waits for events, which a
        # capture forbids.
        code = self._run(
            self._container,
            given,
            ctypes.c_size_t(len(given)),
            taken,
            ctypes.c_size_t(self._outputs),
            self._stream(),
            None,
        )
        self._check(code, "RunSingleThreaded")
        return _taken_over([_new_capsule(handle, None, None) for handle in taken])

    def _check_carried(self, name: str) -> None:
        """Whether the weights lie inside the library. A graph that runs without them ends the process."""
        needed = sum(size for _, size in self._constants().values())
        try:
            ends = [
                ctypes.addressof(ctypes.c_uint8.in_dll(self._library.handle, f"_binary_constants_bin_{end}"))
                for end in ("start", "end")
            ]
        except ValueError:  # a linker that keeps these names to itself
            return
        # Weights too large for the section lie behind the library; two numbers say where.
        if ends[1] - ends[0] < min(needed, 16):
            raise GraphError(
                f"{name} needs {needed} bytes of weights, carries none, and its manifest binds none; "
                f"compile the artifact again"
            )

    def _bind(self, weights: Mapping[str, Tensor]) -> None:
        """Bind every constant by name. A graph that runs with one unbound ends the process."""
        wanted = self._constants()
        if wanted.keys() != weights.keys():
            raise GraphError(
                f"the graph binds other weights than the manifest names: "
                f"{sorted(wanted.keys() ^ weights.keys())[:5]}; compile the artifact again"
            )
        for name, (_, size) in wanted.items():
            found = weights[name].nbytes
            if not found <= size < found + _PADDED:
                raise GraphError(
                    f"the graph binds {size} bytes as {name}, the weights file holds {found}; "
                    f"compile the artifact again"
                )
        # torch's container takes references to these that it never gives back (2.13): it gets tensors of
        # our own over the same memory, which can be emptied when the graph goes.
        self._bound.extend(_over_the_same_memory(tensor) for tensor in weights.values())
        handles = _aoti.unsafe_alloc_void_ptrs_from_tensors(self._bound)
        entries = (_Constant * len(handles))(
            *[
                _Constant(wanted[name][0], _capsule_pointer(handle, None))
                for name, handle in zip(weights, handles, strict=True)
            ]
        )
        self._call(
            "UpdateUserManagedConstantBufferPairs",
            self._container,
            entries,
            ctypes.c_size_t(len(entries)),
            ctypes.c_bool(False),
            ctypes.c_bool(True),
        )
        self._handles.extend(handles)

    def _constants(self) -> dict[str, tuple[bytes, int]]:
        """The name that a weight had in the traced module: its name inside the graph, and its bytes."""
        found: dict[str, tuple[bytes, int]] = {}
        for index in range(self._count("GetNumConstants")):
            inner, outer, size = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_size_t()
            at = ctypes.c_size_t(index)
            self._call("GetConstantName", self._container, at, ctypes.byref(inner))
            self._call("GetConstantOriginalFQN", self._container, at, ctypes.byref(outer))
            self._call("GetConstantDataSize", self._container, at, ctypes.byref(size))
            found[(outer.value or b"").decode()] = (inner.value or b"", int(size.value))
        return found

    def _count(self, function: str) -> int:
        number = ctypes.c_size_t()
        self._call(function, self._container, ctypes.byref(number))
        return int(number.value)

    def _call(self, function: str, *arguments: object) -> None:
        self._check(self._function(function)(*arguments), function)

    def _function(self, name: str) -> Any:
        try:
            return self._library.handle[f"{_PREFIX}{name}"]
        except AttributeError as error:
            raise GraphError(
                f"the compiled graph has no function {name}: it was built with a torch that is too old "
                f"(2.11 is the oldest); compile the artifact again"
            ) from error

    def _check(self, code: int, function: str) -> None:
        if code != 0:
            raise GraphError(f"the compiled graph failed in {function}: {self._last_error()}")

    def _last_error(self) -> str:
        try:
            read = self._library.handle["AOTInductorGetLastError"]
        except AttributeError:
            return "see standard error"
        message = ctypes.c_char_p()
        read(ctypes.byref(message))
        return (message.value or b"no message").decode(errors="replace").splitlines()[0]


class _Library:
    """A shared library in memory, known by its content.

    The dynamic linker knows a library by the name that it was opened with and by its inode, so that another
    file at the same path would be taken for the one that is loaded already. Each load therefore spells the
    path differently, and a file that was overwritten in place is loaded from a copy.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._copied: tempfile.TemporaryDirectory[str] | None = None
        try:
            with _lock:
                if _is_resident(path) and _digests.get(_inode(path)) != digest:
                    self._copied = tempfile.TemporaryDirectory(prefix="precast-")
                    path = Path(shutil.copy(path, self._copied.name))
                self.handle = ctypes.CDLL(_new_spelling(path))
                _digests[_inode(path)] = digest
        except OSError as error:
            raise GraphError(f"{path.name} cannot be loaded: {error}; compile the artifact again") from error

    def close(self) -> None:
        """Unload the library, unless another engine has it open."""
        _ctypes.dlclose(self.handle._handle)
        if self._copied is not None:
            self._copied.cleanup()


def _is_resident(path: Path) -> bool:
    """Whether the dynamic linker would take ``path`` for a library that is loaded already."""
    try:
        found = ctypes.CDLL(_new_spelling(path), mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    _ctypes.dlclose(found._handle)
    return True


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _new_spelling(path: Path) -> str:
    """A name of ``path`` that was not used before: each bit of a running number is ``/`` or ``./``."""
    bits = "".join("./" if bit == "1" else "/" for bit in f"{next(_spellings):b}")
    return f"{path.resolve().parent}/{bits}{path.name}"


def _stream_of(device: torch.device) -> Callable[[], ctypes.c_void_p | None]:
    """Gives the stream that a call shall run on; a CPU has none."""
    if device.type == "cpu":
        return lambda: None
    return lambda: ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)


def _taken_over(handles: list[Any]) -> list[Tensor]:
    """Tensors that own what their handles owned. (torch's function for a single handle leaves it behind.)"""
    tensors: list[Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(handles)
    return tensors


def _over_the_same_memory(tensor: Tensor) -> Tensor:
    """Not ``detach``, whose result could not be emptied."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor)  # type: ignore[call-overload]


def _release(library: _Library, container: ctypes.c_void_p, bound: list[Tensor], handles: list[Any]) -> None:
    """Delete the graph, let go of the weights it was bound to, take the library out of memory."""
    library.handle[f"{_PREFIX}Delete"](container)
    _taken_over(handles)
    # The garbage collector may come while this thread traces a model, and operators would become part of it.
    with _disable_current_modes():
        for tensor in bound:
            tensor.set_()  # type: ignore[call-overload]
    library.close()
