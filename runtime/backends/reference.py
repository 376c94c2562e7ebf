"""Running a portable program: which operators it may call, and with what."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from precast.graphs.errors import ProgramError
from precast.graphs.program import Call, Program

PYTHON_OPS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "neg": operator.neg,
    "pow": operator.pow,
    "getitem": operator.getitem,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
    "sym_int": torch.sym_int,
    "sym_float": torch.sym_float,
}
"""Arithmetic on sizes, and taking one of several results."""

# Reads a file named by the program: a side effect that its schema does not show.
_FORBIDDEN_OPS = frozenset({"aten.from_file.default"})

_SIZE_OPS = frozenset({"aten.sym_size.int", "aten.sym_numel.default"})
"""What may be called although it gives no tensor."""

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
    """A program bound to its weights, ready to be called.

    Args:
        program: what to run.
        tensors: the weights, by their names in the weights file.

    Raises:
        ProgramError: an operator is unknown or not allowed, a name is used before it is defined,
            or a weight is missing.
    """

    def __init__(self, program: Program, tensors: Mapping[str, torch.Tensor]) -> None:
        missing = sorted(set(program.weights.values()) - set(tensors))
        if missing:
            raise ProgramError(f"the program needs weights that are not there: {missing[:5]}")
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
        values: dict[str, Any] = {**self._constants, **{name: inputs[name] for name in self._inputs}}
        with torch.no_grad():
            for name, op, args, kwargs, dead in self._steps:
                values[name] = op(*_fill(args, values), **_fill(kwargs, values))
                for used_up in dead:
                    del values[used_up]
            for name, source in self._writes.items():
                inputs[name].copy_(values[source])
        return [values[name] for name in self._outputs]


def _resolved(call: Call) -> tuple[Callable[..., Any], Any, Any]:
    """The operator of a call and its arguments, as Python has them."""
    op, args, kwargs = resolve_op(call.op), _decode_all(call.args), _decode_all(call.kwargs)
    if isinstance(op, torch._ops.OpOverload):
        _check_literals(call, op, args, kwargs)
    return op, args, kwargs


def _check_literals(call: Call, op: torch._ops.OpOverload, args: list[Any], kwargs: dict[str, Any]) -> None:
    """A number in the place of a dtype or a layout is taken for one by torch, and ends the process."""
    for place, expected in enumerate(op._schema.arguments):
        kind = next((kind for name, kind in _SCHEMA_TYPES.items() if name in str(expected.real_type)), None)
        value = args[place] if place < len(args) else kwargs.get(expected.name)
        if kind is not None and value is not None and not isinstance(value, kind):
            raise ProgramError(
                f"call {call.name!r} gives {value!r} as {expected.name}, which is no {kind.__name__}"
            )


def resolve_op(name: str) -> Callable[..., Any]:
    """``"aten.linear.default"`` or ``"python.mul"`` as a callable.

    Raises:
        ProgramError: no such operator, or one that does more than compute tensors or sizes.
    """
    space, _, rest = name.partition(".")
    if space == "python" and rest in PYTHON_OPS:
        return PYTHON_OPS[rest]
    packet, _, overload = rest.partition(".")
    found = None
    if space == "aten" and packet.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload) or not _only_computes(name, found):
        raise ProgramError(
            f"operator {name[:80]!r} is not one that a program may call in torch {torch.__version__}; "
            f"compile the artifact again with this torch"
        )
    return found


def _only_computes(name: str, op: torch._ops.OpOverload) -> bool:
    """Whether ``op`` gives tensors or sizes and does nothing else.

    ``torch.ops.aten`` also reaches TorchScript's own operators, which the dispatcher does not know:
    ``aten.set_grad_enabled`` and ``aten.manual_seed`` change the process, ``aten.save`` names a file. An
    underscore marks internals that trust their arguments.
    """
    private = name.startswith("aten._") and not name.startswith("aten.__")
    return (
        name not in _FORBIDDEN_OPS
        and not private
        and not op._schema.is_mutable
        and torch._C._dispatch_has_kernel(op.name())
        and (name in _SIZE_OPS or any("Tensor" in str(given.type) for given in op._schema.returns))
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
        raise ProgramError(f"a program holds a {kind[:80]!r} that is no text but {str(content)[:80]}")
    if kind == "ref":
        return _Ref(content)
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    # Only what torch holds already: asking it for another name may import a part of it.
    found = vars(torch).get(content) if kind in _LITERALS else None
    if found is None or not isinstance(found, _LITERALS[kind]):
        raise ProgramError(f"a program holds a value of unknown kind: {kind[:80]!r} of {content[:80]!r}")
    return found


def _decode_all(values: Any) -> Any:
    try:
        if isinstance(values, dict):
            return {str(key): _decode(value) for key, value in values.items()}
        return [_decode(value) for value in values]
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ProgramError(f"a program holds a value that cannot be read: {error}") from error


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
        raise ProgramError(f"the program writes what it does not have: {sorted(program.writes.items())[:5]}")
    if not known.issuperset(program.outputs):
        raise ProgramError(f"the program has no result for {sorted(set(program.outputs) - known)}")


def _last_uses(program: Program) -> Sequence[list[str]]:
    """For each call the names that nothing needs after it, so that memory is given back early."""
    kept = {*program.outputs, *program.weights, *program.writes.values()}
    dead: list[list[str]] = []
    for call in reversed(program.calls):
        last = dict.fromkeys(
            name for name in [*_refs([call.args, *call.kwargs.values()]), call.name] if name not in kept
        )
        kept.update(last)
        dead.append(list(last))
    return dead[::-1]
