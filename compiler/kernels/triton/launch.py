"""Launches kernels, whether traced, compiled or interpreted."""

from __future__ import annotations

from typing import Any

from torch._subclasses.fake_tensor import FakeTensor
from torch.library import wrap_triton
from triton.runtime.jit import JITFunction


def launch(kernel: Any, grid: tuple[Any, ...], *arguments: Any, **constants: Any) -> None:
    """Launch ``kernel`` over ``grid``; torch.export and Inductor record the launch as a node of the graph.

    Under ``TRITON_INTERPRET=1`` a kernel is a Python function on CPU tensors, which torch 2.11 does not wrap;
    it is called directly. While torch.export traces with fake tensors, the call is skipped: only shapes are
    needed.

    Args:
        kernel: returned by ``triton.jit``.
        grid: one to three integers, possibly symbolic.
        arguments: of the kernel, in order.
        constants: its constexprs, ``num_warps`` and ``num_stages``.
    """
    if isinstance(kernel, JITFunction):
        wrap_triton(kernel)[grid](*arguments, **constants)
    elif not any(isinstance(argument, FakeTensor) for argument in arguments):
        kernel[grid](*arguments, **constants)
