"""Inductor lowerings of our C++ kernels: each operator becomes a call compiled into the graph."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from torch import Tensor
from torch._inductor import ir, lowering  # lowering before its templates, which import it in turn
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.codegen.cpp_template_kernel import CppTemplateKernel
from torch._inductor.utils import Placeholder
from torch._inductor.virtualized import V

from precast.compiler.kernels.avx512.cpp import Kernel, Operand, source


class _Call(CppTemplate):
    """The C++ source of one call."""

    def __init__(
        self, kernel: Kernel, layout: ir.Layout, tensors: dict[str, Any], rest: dict[str, Any]
    ) -> None:
        nodes = [node for node in tensors.values() if node is not None]
        super().__init__(kernel.header.removesuffix(".h"), nodes, layout, num_threads=0)
        self.kernel, self.tensors, self.rest = kernel, tensors, rest

    def render(self, **arguments: Any) -> str:
        cpp, out = arguments["kernel"], arguments["template_buffer_node"]
        # Several arguments may be views of one buffer, which is passed once.
        buffers = {node.get_name(): node for node in self.input_nodes}
        names = {name: f"in{index}" for index, name in enumerate(buffers)}
        signature = cpp.def_kernel(
            inputs={names[name]: node for name, node in buffers.items()},
            outputs={"out": out},
            extra_sizevars=[expression for node in self.input_nodes for expression in _expressions(node)],
        )
        operands = {
            name: None if node is None else _operand(cpp, node, names[node.get_name()])
            for name, node in self.tensors.items()
        }
        call = self.kernel.call({**operands, "out": _operand(cpp, out, "out")}, self.rest)
        return "\n".join(
            [self.header().getvalue(), source(self.kernel.header), f'extern "C" {signature}', "{", call, "}"]
        )


def _expressions(node: Any) -> list[Any]:
    layout = node.get_layout()
    return [*layout.size, *layout.stride, layout.offset]


def _operand(cpp: Any, node: Any, name: str) -> Operand:
    layout = node.get_layout()
    offset = cpp.rename_indexing(layout.offset)
    text = [[f"({cpp.size(node, at)})", f"({cpp.stride(node, at)})"] for at in range(len(layout.size))]
    return Operand(
        at=f"({name} + {offset})" if layout.offset != 0 else name,
        dtype=layout.dtype,
        sizes=tuple(size for size, _ in text),
        strides=tuple(stride for _, stride in text),
    )


def install(kernels: Iterable[Kernel]) -> None:
    """Register the operators of ``kernels`` with Inductor in this process."""
    for kernel in kernels:
        lowering.register_lowering(kernel.operator, type_promotion_kind=None)(partial(_lower, kernel))


def _lower(kernel: Kernel, *args: Any) -> Any:
    tensors: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for argument, passed in zip(kernel.operator._schema.arguments, args, strict=True):
        if "Tensor" in str(argument.type):
            strided = kernel.strided.get(argument.name)
            tensors[argument.name] = None if passed is None else _realized(passed, strided)
        else:
            rest[argument.name] = passed
    value = V.graph.current_node.meta["val"]
    assert isinstance(value, Tensor)
    layout = ir.FixedLayout(value.device, value.dtype, ir.convert_shape_to_inductor(value.shape))
    return ir.TensorBox.create(_buffer(kernel, layout, _Call(kernel, layout, tensors, rest)))


def _buffer(kernel: Kernel, layout: ir.Layout, call: _Call) -> ir.CppTemplateBuffer:
    def make_kernel_render(node: Any, *, epilogue_nodes: Any = None, **_: Any) -> Any:
        assert not epilogue_nodes, f"Inductor fused {epilogue_nodes} into {kernel.operator}"
        cpp = CppTemplateKernel(kernel_name=str(Placeholder.KERNEL_NAME), num_threads=0)
        return cpp, partial(cpp.render, call, template_buffer_node=node)

    inputs: Any = call.input_nodes
    buffer = ir.CppTemplateBuffer(layout, inputs, make_kernel_render, cast(Any, call), None)
    buffer.allow_epilogue_fusion = False
    return buffer


def _realized(box: Any, contiguous: int | None) -> Any:
    """Return a node that is stored in memory and can be passed as a pointer.

    Args:
        box: A tensor of the graph.
        contiguous: Number of last dimensions that must be contiguous; None for all.
    """
    node = ir.ExternKernel.realize_input(box)
    layout = node.maybe_get_layout() if hasattr(node, "maybe_get_layout") else None
    if isinstance(layout, ir.FlexibleLayout):
        node.freeze_layout()
        layout = node.get_layout()
    if layout is not None and _is_contiguous(layout, contiguous):
        return node
    return ir.ExternKernel.require_contiguous(box)


def _is_contiguous(layout: Any, last: int | None) -> bool:
    expected: Any = 1
    dims = list(zip(layout.size, layout.stride, strict=True))
    for size, stride in reversed(dims if last is None else dims[-last:]):
        if not V.graph.sizevars.statically_known_equals(stride, expected):
            return False
        expected = expected * size
    return True
