"""The ``reference`` backend: runs portable programs, and decides which operators they may call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from precast.graphs.errors import ProgramError
from precast.graphs.program import PYTHON_OPS, Call, Program

_FORBIDDEN_OPS = frozenset({"aten.from_file.default"})
"""Reads a file that the program names: a side effect that its schema does not show."""

_SIZE_OPS = frozenset({"aten.sym_size.int", "aten.sym_numel.default"})
"""Allowed although they return no tensor."""

_LITERALS: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}

_SCHEMA_TYPES: Mapping[str, type] = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
}


class ProgramRunner:
    """A program bound to its weights: a graph that can be called.

    Args:
        program: The program to run.
        tensors: The weights, by their names in the weights file.

    Raises:
        ProgramError: An operator is unknown or not allowed, a name is used before it is defined,
            or a weight is missing.
    """

    def __init__(self, program: Program, tensors: Mapping[str, torch.Tensor]) -> None:
        missing = sorted(set(program.weights.values()) - set(tensors))
        if missing:
            raise ProgramError(
                f"the program needs weights that the weights file lacks: {missing[:5]}; "
                f"copy or compile the artifact again"
            )
        self._inputs = program.inputs
        self._constants = {name: tensors[source] for name, source in program.weights.items()}
        self._outputs = program.outputs
        self._writes = program.writes
        _check_names(program)
        self._steps = [
            (call.name, *_resolved(call), dead)
            for call, dead in zip(program.calls, _last_uses(program), strict=True)
        ]

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run the program on inputs by name, write those that it writes, and return its outputs."""
        values: dict[str, Any] = {**self._constants, **{name: inputs[name] for name in self._inputs}}
        with torch.no_grad():
            for name, op, args, kwargs, dead in self._steps:
                values[name] = op(*_fill(args, values), **_fill(kwargs, values))
                for finished in dead:
                    del values[finished]
            for name, source in self._writes.items():
                inputs[name].copy_(values[source])
        return [values[name] for name in self._outputs]


def _resolved(call: Call) -> tuple[Callable[..., Any], Any, Any]:
    """Return the operator of a call with its arguments decoded."""
    op, args, kwargs = resolve_op(call.op), _decode_all(call.args), _decode_all(call.kwargs)
    if isinstance(op, torch._ops.OpOverload):
        _check_literals(call, op, args, kwargs)
    return op, args, kwargs


def _check_literals(call: Call, op: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Check dtypes, layouts and memory formats: torch accepts a number for one, and -1 ends the process."""
    for position, expected in enumerate(op._schema.arguments):
        kind = next((kind for name, kind in _SCHEMA_TYPES.items() if name in str(expected.real_type)), None)
        value = args[position] if position < len(args) else kwargs.get(expected.name)
        if kind is not None and value is not None and not isinstance(value, kind):
            raise ProgramError(
                f"call {call.name!r} passes {value!r} as {expected.name}, expected a {kind.__name__}; "
                f"compile the artifact again"
            )


def resolve_op(name: str) -> Callable[..., Any]:
    """Return the operator named ``"aten.linear.default"`` or ``"python.mul"`` as a callable.

    Raises:
        ProgramError: There is no such operator, or it does more than compute tensors or sizes.
    """
    space, _, rest = name.partition(".")
    if space == "python" and rest in PYTHON_OPS:
        return PYTHON_OPS[rest]
    packet, _, overload = rest.partition(".")
    op = None
    if space == "aten" and packet.isidentifier() and overload.isidentifier():
        op = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if not isinstance(op, torch._ops.OpOverload) or not _only_computes(name, op):
        raise ProgramError(
            f"operator {name[:80]!r} is not one that a program may call in torch {torch.__version__}; "
            f"compile the artifact again with this torch"
        )
    return op


def _only_computes(name: str, op: torch._ops.OpOverload) -> bool:
    """Return whether ``op`` computes tensors or sizes and has no other effect.

    ``torch.ops.aten`` also contains TorchScript's own operators, which the dispatcher does not know:
    ``aten.set_grad_enabled`` and ``aten.manual_seed`` change global state, ``aten.save`` writes a file. An
    underscore marks internals that do not check their arguments.
    """
    private = name.startswith("aten._") and not name.startswith("aten.__")
    return (
        name not in _FORBIDDEN_OPS
        and not private
        and not op._schema.is_mutable
        and torch._C._dispatch_has_kernel(op.name())
        and (name in _SIZE_OPS or any("Tensor" in str(result.type) for result in op._schema.returns))
    )


@dataclass(frozen=True)
class _Ref:
    name: str


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if not isinstance(content, str):
        raise ProgramError(
            f"a program holds a {kind[:80]!r} of {str(content)[:80]}, expected a string; "
            f"compile the artifact again"
        )
    if kind == "ref":
        return _Ref(content)
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    # Look up loaded attributes only: getattr on torch may import a submodule.
    literal = vars(torch).get(content) if kind in _LITERALS else None
    if literal is None or not isinstance(literal, _LITERALS[kind]):
        raise ProgramError(
            f"a program holds a value of unknown kind: {kind[:80]!r} of {content[:80]!r}; "
            f"compile the artifact again with this torch"
        )
    return literal


def _decode_all(values: Any) -> Any:
    try:
        if isinstance(values, dict):
            return {str(key): _decode(value) for key, value in values.items()}
        return [_decode(value) for value in values]
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ProgramError(
            f"a program holds a value that cannot be read: {error}; compile the artifact again"
        ) from error


def _fill(values: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(values, _Ref):
        return known[values.name]
    if isinstance(values, list):
        return [_fill(value, known) for value in values]
    if isinstance(values, dict):
        return {key: _fill(value, known) for key, value in values.items()}
    return values


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"ref"} and isinstance(value["ref"], str):
            return [value["ref"]]
        return [name for item in value.values() for name in _refs(item)]
    if isinstance(value, list):
        return [name for item in value for name in _refs(item)]
    return []


def _check_names(program: Program) -> None:
    """Check that every name is defined once, and before it is used."""
    known = {*program.inputs, *program.weights}
    if len(known) != len(program.inputs) + len(program.weights):
        raise ProgramError(f"the program defines a name twice among {sorted(known)[:5]}")
    for call in program.calls:
        unknown = [name for name in _refs([call.args, *call.kwargs.values()]) if name not in known]
        if unknown:
            raise ProgramError(f"call {call.name!r} uses {unknown[:5]} before it is defined")
        if call.name in known:
            raise ProgramError(f"call {call.name!r} defines a name that is defined already")
        known.add(call.name)
    if not known.issuperset(program.writes.values()) or not set(program.inputs) >= program.writes.keys():
        raise ProgramError(
            f"the program writes inputs or values that it does not define: "
            f"{sorted(program.writes.items())[:5]}; compile the artifact again"
        )
    if not known.issuperset(program.outputs):
        raise ProgramError(f"the program does not compute its outputs {sorted(set(program.outputs) - known)}")


def _last_uses(program: Program) -> Sequence[list[str]]:
    """Return, for each call, the names that no later call needs; their memory is freed after it."""
    kept = {*program.outputs, *program.weights, *program.writes.values()}
    dead: list[list[str]] = []
    for call in reversed(program.calls):
        last = dict.fromkeys(
            name for name in [*_refs([call.args, *call.kwargs.values()]), call.name] if name not in kept
        )
        kept.update(last)
        dead.append(list(last))
    return dead[::-1]
