"""A graph compiled by AOTInductor, called through the C interface of its shared library.

torch's own Python runners hold the interpreter lock while the graph runs, which would block tokenization;
ctypes releases it. A plain ``.so`` is loaded in place, while a ``.pt2`` would first be unpacked into a
temporary folder. The interface is declared in torch's
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
"""A graph reports the bytes of its weights rounded up to a multiple of this."""

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
        path: The shared library. Loading it runs code, so its hash must have been checked.
        signature: Its inputs and outputs, in call order.
        weights: Tensors on ``device`` to bind by name without a copy, exactly those that the graph expects.
            None for a graph that contains its own.
        digest: SHA-256 of the library, from the manifest.
        device: ``cpu``, or a CUDA device such as ``cuda:0``. On CUDA a call puts its work on the current
            stream and returns; it may be captured after its first run.

    Raises:
        GraphError: The library cannot be loaded, or its inputs, outputs or weights differ from those given.
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
        arguments = (_Handle * len(handles))(*[_capsule_pointer(handle, None) for handle in handles])
        outputs = (_Handle * self._outputs)()
        # Only one thread calls this graph. The multi-threaded function waits for events, which is not
        # allowed inside a capture.
        code = self._run(
            self._container,
            arguments,
            ctypes.c_size_t(len(arguments)),
            outputs,
            ctypes.c_size_t(self._outputs),
            self._stream(),
            None,
        )
        self._check(code, "RunSingleThreaded")
        return _tensors_owning([_new_capsule(handle, None, None) for handle in outputs])

    def _check_carried(self, name: str) -> None:
        """Check that the library contains its weights: running a graph without them crashes the process."""
        needed = sum(size for _, size in self._constants().values())
        try:
            ends = [
                ctypes.addressof(ctypes.c_uint8.in_dll(self._library.handle, f"_binary_constants_bin_{end}"))
                for end in ("start", "end")
            ]
        except ValueError:  # some linkers do not export these names
            return
        # Weights too large for the section are appended to the file; the section holds two numbers then.
        if ends[1] - ends[0] < min(needed, 16):
            raise GraphError(
                f"{name} needs {needed} bytes of weights, carries none, and its manifest binds none; "
                f"compile the artifact again"
            )

    def _bind(self, weights: Mapping[str, Tensor]) -> None:
        """Bind every constant by name: running a graph with an unbound one crashes the process."""
        wanted = self._constants()
        if wanted.keys() != weights.keys():
            raise GraphError(
                f"the graph binds other weights than the manifest names: "
                f"{sorted(wanted.keys() ^ weights.keys())[:5]}; compile the artifact again"
            )
        for name, (_, size) in wanted.items():
            actual = weights[name].nbytes
            if not actual <= size < actual + _PADDED:
                raise GraphError(
                    f"the graph binds {size} bytes as {name}, the weights file holds {actual}; "
                    f"compile the artifact again"
                )
        # torch's container never releases its references to these tensors (2.13). So it gets tensors of our
        # own over the same memory, which are emptied when the graph is released.
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
        """Return, by each weight's name in the traced module, its name inside the graph and its bytes."""
        constants: dict[str, tuple[bytes, int]] = {}
        for index in range(self._count("GetNumConstants")):
            inner, outer, size = ctypes.c_char_p(), ctypes.c_char_p(), ctypes.c_size_t()
            at = ctypes.c_size_t(index)
            self._call("GetConstantName", self._container, at, ctypes.byref(inner))
            self._call("GetConstantOriginalFQN", self._container, at, ctypes.byref(outer))
            self._call("GetConstantDataSize", self._container, at, ctypes.byref(size))
            constants[(outer.value or b"").decode()] = (inner.value or b"", int(size.value))
        return constants

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
    """A loaded shared library, identified by its content.

    The dynamic linker identifies a library by its path and its inode, so it would not load a replaced file
    whose predecessor is still loaded. So each load spells the path differently, and a file that was
    overwritten in place is loaded from a copy.
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
    """Return whether the dynamic linker considers ``path`` as loaded already."""
    try:
        library = ctypes.CDLL(_new_spelling(path), mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    _ctypes.dlclose(library._handle)
    return True


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _new_spelling(path: Path) -> str:
    """Return a new spelling of ``path``: each bit of a running number becomes ``/`` or ``./``."""
    bits = "".join("./" if bit == "1" else "/" for bit in f"{next(_spellings):b}")
    return f"{path.resolve().parent}/{bits}{path.name}"


def _stream_of(device: torch.device) -> Callable[[], ctypes.c_void_p | None]:
    """Return a function that returns the device's current stream; None for a CPU."""
    if device.type == "cpu":
        return lambda: None
    return lambda: ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)


def _tensors_owning(handles: list[Any]) -> list[Tensor]:
    """Return tensors that take over the ownership of handles. (torch's single-handle function leaks.)"""
    tensors: list[Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(handles)
    return tensors


def _over_the_same_memory(tensor: Tensor) -> Tensor:
    """Return a tensor over the same memory that can be emptied later, unlike the result of ``detach``."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor)  # type: ignore[call-overload]


def _release(library: _Library, container: ctypes.c_void_p, bound: list[Tensor], handles: list[Any]) -> None:
    """Delete the graph, release the weights it was bound to and unload the library."""
    library.handle[f"{_PREFIX}Delete"](container)
    _tensors_owning(handles)
    # The garbage collector may run while this thread traces a model, which must not record these operators.
    with _disable_current_modes():
        for tensor in bound:
            tensor.set_()  # type: ignore[call-overload]
    library.close()
