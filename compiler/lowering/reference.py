"""The ``reference`` backend: stores the traced operators as a portable program, without a compiler."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec

from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.lowering.trace import trace
from precast.graphs.program import PYTHON_OPS, Call, Program
from precast.graphs.signature import Signature

_PYTHON_NAMES: dict[Callable[..., Any], str] = {function: name for name, function in PYTHON_OPS.items()}
_DROPPED = {
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
}
"""Checks that tracing adds; the runtime checks every input against the signature instead."""


def reference() -> Backend:
    """Return the backend, which is portable and slow; it helps to locate errors of compiled graphs."""
    return Backend("reference", ".json", {}, False, _lower)


def _lower(module: nn.Module, signature: Signature, size: int, folder: Path) -> CompiledFile:
    program = to_program(trace(module, signature, size), [buffer.name for buffer in signature.inputs])
    path = folder / "graph.json"
    path.write_text(program.to_json(), "utf-8")
    return CompiledFile(path, "bound", tuple(sorted(set(program.weights.values()))))


def to_program(exported: ExportedProgram, names: Sequence[str]) -> Program:
    """Return a traced graph as a portable program, whose weights have the names of the traced module.

    Args:
        exported: The traced graph.
        names: Names of the inputs, in order.

    Raises:
        LoweringError: The graph has a call or an argument that a program cannot represent.
    """
    inputs = exported.graph_signature.input_specs
    arguments = [spec.arg.name for spec in inputs if spec.kind is InputKind.USER_INPUT]
    # The program's current name of each value: an input's name in the signature, or that of its last writer.
    current = dict(zip(arguments, names, strict=True))
    weights = {
        spec.arg.name: spec.target
        for spec in inputs
        if spec.kind is not InputKind.USER_INPUT and spec.target is not None
    }
    calls, writes = [], {}
    buffer_of = dict(zip(arguments, names, strict=True))
    for node in exported.graph.nodes:
        if node.target is torch.ops.aten.index_put_.default:
            calls.append(Call(node.name, "aten.index_put.default", _encode(list(node.args), current), {}))
            # The result of a write is the same memory: later calls may use either name.
            buffer = buffer_of[node.name] = buffer_of[node.args[0].name]
            writes[buffer] = node.name
            current |= {alias: node.name for alias, aliased in buffer_of.items() if aliased == buffer}
        elif _is_live_call(node):
            calls.append(_call(node, current))
    outputs = tuple(current.get(spec.arg.name, spec.arg.name) for spec in _results(exported))
    used = {node.name for node in exported.graph.nodes if node.op == "placeholder" and node.users}
    return Program(
        inputs=tuple(names),
        weights={name: source for name, source in weights.items() if name in used},
        calls=tuple(calls),
        outputs=outputs,
        writes=writes,
    )


def _results(exported: ExportedProgram) -> list[OutputSpec]:
    """Return the outputs of the module, without the mutated inputs that a traced graph lists before them."""
    return [spec for spec in exported.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]


def _is_live_call(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target in _DROPPED:
        return False
    return bool(node.users)


def _call(node: fx.Node, current: Mapping[str, str]) -> Call:
    return Call(
        name=node.name,
        op=_op_name(node.target),
        args=[_encode(value, current) for value in node.args],
        kwargs={key: _encode(value, current) for key, value in node.kwargs.items()},
    )


def _op_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if target in _PYTHON_NAMES:
        return f"python.{_PYTHON_NAMES[target]}"
    raise LoweringError(
        f"the reference backend does not support {target}; add it to runtime/backends/reference.py"
    )


def _encode(value: Any, current: Mapping[str, str]) -> Any:
    if isinstance(value, fx.Node):
        return {"ref": current.get(value.name, value.name)}
    if isinstance(value, (list, tuple)):
        return [_encode(item, current) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    for kind, expected in (
        ("dtype", torch.dtype),
        ("layout", torch.layout),
        ("memory_format", torch.memory_format),
    ):
        if isinstance(value, expected):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise LoweringError(f"the reference backend cannot store a {type(value).__name__}: {value}")
