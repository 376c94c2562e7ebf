"""A portable program: the traced ATen calls of a graph as plain data.

This is what the ``reference`` backend stores. PyTorch's own exported-program file is not used for it,
because loading one imports the whole compiler stack and unpickles; a program is JSON, names only
side-effect-free ATen operators, and runs on any torch that has them.

Values are JSON scalars and lists; everything else is an object with one key: ``{"ref": node}``,
``{"dtype": "float32"}``, ``{"device": "cpu"}``, ``{"layout": "strided"}``,
``{"memory_format": "contiguous_format"}``, ``{"float": "inf"}``.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from precast.graphs.errors import ProgramError

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

# Reads a file named by the program: the one side effect that a schema does not show.
_FORBIDDEN_OPS = frozenset({"aten.from_file.default"})


@dataclass(frozen=True)
class Call:
    """One operator call; its result is known by ``name``."""

    name: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """Inputs and weights by name, calls in order, results by name.

    ``weights`` maps a name used in the calls to the name of a tensor in the weights file.
    """

    inputs: tuple[str, ...]
    weights: Mapping[str, str]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Raises ProgramError: the text is no program."""
        try:
            data = json.loads(text)
            return cls(
                inputs=tuple(map(str, data["inputs"])),
                weights={str(key): str(value) for key, value in data["weights"].items()},
                calls=tuple(Call(**call) for call in data["calls"]),
                outputs=tuple(map(str, data["outputs"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProgramError(
                f"this is no portable program: {error!r}; compile the artifact again"
            ) from error


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
        _check_names(program)
        self._steps = [
            (call.name, resolve_op(call.op), _decode_all(call.args), _decode_all(call.kwargs), dead)
            for call, dead in zip(program.calls, _last_uses(program), strict=True)
        ]

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        values: dict[str, Any] = {**self._constants, **{name: inputs[name] for name in self._inputs}}
        with torch.no_grad():
            for name, op, args, kwargs, dead in self._steps:
                values[name] = op(*_fill(args, values), **_fill(kwargs, values))
                for used_up in dead:
                    del values[used_up]
        return [values[name] for name in self._outputs]


def resolve_op(name: str) -> Callable[..., Any]:
    """``"aten.linear.default"`` or ``"python.mul"`` as a callable.

    Raises:
        ProgramError: no such operator, or one that writes to its arguments.
    """
    space, _, rest = name.partition(".")
    if space == "python" and rest in PYTHON_OPS:
        return PYTHON_OPS[rest]
    packet, _, overload = rest.partition(".")
    found = None
    if space == "aten" and name not in _FORBIDDEN_OPS and packet.isidentifier() and overload.isidentifier():
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if found is None or found._schema.is_mutable:
        raise ProgramError(
            f"operator {name!r} is not one that a program may call in torch {torch.__version__}; "
            f"compile the artifact again with this torch"
        )
    return found


@dataclass(frozen=True)
class _Ref:
    name: str


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "ref":
        return _Ref(content)
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    if kind in ("dtype", "layout", "memory_format"):
        return getattr(torch, content)
    raise ProgramError(f"a program holds a value of unknown kind {kind!r}")


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
        if set(value) == {"ref"}:
            return [str(value["ref"])]
        return [name for item in value.values() for name in _refs(item)]
    if isinstance(value, list):
        return [name for item in value for name in _refs(item)]
    return []


def _check_names(program: Program) -> None:
    known = {*program.inputs, *program.weights}
    for call in program.calls:
        unknown = [name for name in _refs([call.args, call.kwargs]) if name not in known]
        if unknown:
            raise ProgramError(f"call {call.name} uses {unknown} before it is defined")
        known.add(call.name)
    if not known.issuperset(program.outputs):
        raise ProgramError(f"the program has no result for {sorted(set(program.outputs) - known)}")


def _last_uses(program: Program) -> Sequence[list[str]]:
    """For each call the names that nothing needs after it, so that memory is given back early."""
    kept = {*program.outputs, *program.weights}
    dead: list[list[str]] = []
    for call in reversed(program.calls):
        last = dict.fromkeys(
            name for name in [*_refs([call.args, call.kwargs]), call.name] if name not in kept
        )
        kept.update(last)
        dead.append(list(last))
    return dead[::-1]
