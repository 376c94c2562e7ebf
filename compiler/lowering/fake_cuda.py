"""Replaces the functions by which Inductor and Triton query a CUDA device while they compile.

Kernels are compiled as for a real device. The first configuration of each is used without timing, and nothing
is run. Every replaced name exists in torch 2.11 and Triton 3.6 or later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._inductor.codegen.wrapper as wrapper
import torch._inductor.graph as inductor_graph
import torch._inductor.runtime.triton_helpers as triton_helpers
import torch._inductor.runtime.triton_heuristics as triton_heuristics
import torch._inductor.scheduler as scheduler
import torch.utils._triton as torch_triton
import triton
from torch._dynamo import device_interface
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel

_H100 = {
    "name": "a simulated CUDA device",
    "multi_processor_count": 132,
    "total_memory": 80 << 30,
    "warp_size": 32,
    "max_threads_per_multi_processor": 2048,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 48 << 10,
    "shared_memory_per_block_optin": 227 << 10,
    "L2_cache_size": 50 << 20,
    "gcnArchName": "",
    "uuid": "none",
}
"""Properties of an H100. Without autotuning they only affect the number of blocks in a grid."""


@contextmanager
def fake_cuda(capability: tuple[int, int]) -> Iterator[None]:
    """Make torch and Triton report a device of ``capability``, so that graphs can be compiled without one."""
    with ExitStack() as stack:
        for owner, names in (
            (torch.cuda, _cuda_module(capability)),
            (device_interface.CudaInterface, _cuda_interface(capability)),
            (device_interface.CudaInterface.Worker, _cuda_worker(capability)),
            (device_interface.DeviceGuard, {"__enter__": _nothing, "__exit__": _nothing}),
            (torch_triton, {"has_triton": _yes}),
            (scheduler, {"has_triton": _yes}),
            (inductor_graph, {"is_same_tensor": _is}),
            (triton_helpers, {"set_driver_to_gpu": _nothing}),
            (CompiledKernel, {"_init_handles": _without_handles}),
            (triton_heuristics.CachingAutotuner, {"run": _use_first}),
            (wrapper.PythonWrapperCodegen, {"generate_and_run_autotune_block": _run_autotune_block}),
        ):
            stack.enter_context(patch.multiple(owner, **names))
        # Not reset_active, which would search for the real driver.
        stack.enter_context(patch.object(triton.runtime.driver, "_active", _Driver(capability)))
        yield


def _properties(capability: tuple[int, int]) -> Any:
    return SimpleNamespace(major=capability[0], minor=capability[1], **_H100)


def _cuda_module(capability: tuple[int, int]) -> dict[str, Any]:
    return {
        "get_device_properties": lambda *_, **__: _properties(capability),
        "get_device_capability": lambda *_, **__: capability,
        "current_device": _zero,
        "device_count": lambda: 1,
        "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": _nothing,
        "is_bf16_supported": _yes,
        "synchronize": _nothing,
    }


def _cuda_interface(capability: tuple[int, int]) -> dict[str, Any]:
    return {
        "get_compute_capability": staticmethod(lambda *_, **__: capability[0] * 10 + capability[1]),
        "get_device_properties": staticmethod(lambda *_, **__: _properties(capability)),
        "is_bf16_supported": staticmethod(_yes),
        "current_device": staticmethod(_zero),
    }


def _cuda_worker(capability: tuple[int, int]) -> dict[str, Any]:
    return {
        "get_device_properties": staticmethod(lambda *_, **__: _properties(capability)),
        "current_device": staticmethod(_zero),
    }


class _Driver:
    """A Triton driver that reports a device and cannot launch kernels."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self._target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda:0")

    def get_device_interface(self) -> Any:
        return torch.cuda

    def get_current_stream(self, *_: object) -> int:
        return 0


def _nothing(*_: object, **__: object) -> None:
    return None


def _zero(*_: object, **__: object) -> int:
    return 0


def _yes(*_: object, **__: object) -> bool:
    return True


def _is(left: object, right: object) -> bool:
    """Compare weights by identity: fake tensors have no storage to compare."""
    return left is right


def _without_handles(kernel: Any) -> None:
    """Skip loading a kernel, which needs a device; registers and spills do not matter without autotuning."""
    kernel.module = kernel.function = 0
    kernel._run = None
    kernel.n_regs, kernel.n_spills = 64, 0


def _use_first(tuner: Any, *_: object, stream: Any = None, **__: object) -> None:
    """Use a kernel's first configuration instead of timing all of them."""
    if not tuner.launchers:
        tuner.precompile()
    tuner.launchers = tuner.launchers[:1]
    tuner.save_gpu_kernel(stream, tuner.launchers[0])


def _run_autotune_block(codegen: Any) -> None:
    """Run Inductor's program that launches each kernel once, on tensors without storage."""
    example_values = (
        "def generate_example_value(size, stride, device, dtype, offset, alloc=None):\n"
        "    import torch\n"
        "    return torch.empty_strided(size, stride, dtype=dtype, device='meta')\n"
    )
    calls = codegen.kernel_autotune_calls.getvalue()
    calls = calls.replace("torch.cuda.set_device", "(lambda *a: None)")
    calls = calls.replace(
        "from torch._C import _cuda_getCurrentRawStream as get_raw_stream", "get_raw_stream = lambda *a: 0"
    )
    calls = re.sub(r"with torch.cuda._DeviceGuard\(\d+\):", "if True:", calls)
    definitions = codegen.kernel_autotune_defs.getvalue()
    program = f"{definitions}\nasync_compile.wait(globals())\ndel async_compile\n{example_values}{calls}"
    exec(program, {})
