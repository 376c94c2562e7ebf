"""How every kernel is launched: traced, lowered, or interpreted."""

from __future__ import annotations

from typing import Any

from torch._subclasses.fake_tensor import FakeTensor
from torch.library import wrap_triton
from triton.runtime.jit import JITFunction


def launch(kernel: Any, grid: tuple[Any, ...], *arguments: Any, **constants: Any) -> None:
    """Runs ``kernel`` over ``grid``; under torch.export and Inductor it becomes a node of the graph.

    Under ``TRITON_INTERPRET=1`` a kernel is a Python function that runs on CPU tensors. torch 2.11
    refuses to wrap it, so it is called as it stands. While torch.export traces, there is nothing to
    run it on, and the shape of its output is all that is asked for.

    Args:
        kernel: what ``triton.jit`` made.
        grid: one to three integers, symbolic ones too.
        arguments: of the kernel, in order.
        constants: its constexprs, ``num_warps`` and ``num_stages``.
    """
    if isinstance(kernel, JITFunction):
        wrap_triton(kernel)[grid](*arguments, **constants)
    elif not any(isinstance(argument, FakeTensor) for argument in arguments):
        kernel[grid](*arguments, **constants)
