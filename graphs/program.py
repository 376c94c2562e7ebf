"""Portable programs: the traced ATen calls of a graph as plain data.

This is the file format of the ``reference`` backend. PyTorch's own exported-program file is not used because
loading one imports the whole compiler stack and unpickles data. A program is JSON, names only
side-effect-free ATen operators, and runs on any torch that has them.

Values are JSON scalars and lists; everything else is an object with one key: ``{"ref": node}``,
``{"dtype": "float32"}``, ``{"device": "cpu"}``, ``{"layout": "strided"}``,
``{"memory_format": "contiguous_format"}``, ``{"float": "inf"}``.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from precast.graphs import strict_json
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
"""The operators ``python.*``: arithmetic on sizes, and the selection of one of several results."""

_MAX_DEPTH = 8
"""Maximum nesting of a value. Traced calls need three levels; values are read recursively."""


@dataclass(frozen=True)
class Call:
    """One operator call; later calls refer to its result by ``name``."""

    name: str
    op: str
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """The inputs, weights, calls and outputs of a graph.

    ``weights`` maps a name used in the calls to the name of a tensor in the weights file. Calls have no side
    effects: inputs are written after the last call.
    """

    inputs: tuple[str, ...]
    weights: Mapping[str, str]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    writes: Mapping[str, str] = field(default_factory=dict)
    """Maps each input that the graph writes to the name of its final value."""

    def to_json(self) -> str:
        """Return the program as compact JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Parse a program.

        Raises:
            ProgramError: The text is not a program.
        """
        try:
            data = strict_json.loads(text)
            if not isinstance(data, dict):
                raise TypeError(f"expected an object, found {type(data).__name__}")
            program = cls(
                inputs=_names("inputs", data.pop("inputs")),
                weights=_checked("weights", data.pop("weights"), dict),
                calls=tuple(_call(call) for call in _checked("calls", data.pop("calls"), list)),
                outputs=_names("outputs", data.pop("outputs")),
                writes=_checked("writes", data.pop("writes"), dict),
            )
            _names("weights", list(program.weights.values()))
            _names("writes", list(program.writes.values()))
            if data:
                raise ValueError(f"unknown keys {sorted(data)[:5]}")
            return program
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProgramError(
                f"this is not a portable program: {error!r}; compile the artifact again"
            ) from error


def _checked(what: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _names(what: str, values: Any) -> tuple[str, ...]:
    return tuple(_checked(what, value, str) for value in _checked(what, values, list))


def _call(data: Any) -> Call:
    call = Call(**_checked("a call", data, dict))
    _checked("the name of a call", call.name, str)
    _checked("the operator of a call", call.op, str)
    _check_depth(_checked("args", call.args, list), _MAX_DEPTH)
    _check_depth(_checked("kwargs", call.kwargs, dict), _MAX_DEPTH)
    return call


def _check_depth(value: Any, left: int) -> None:
    """Limit the depth of a value: all later functions walk it recursively."""
    if isinstance(value, list | dict):
        if left == 0:
            raise ValueError(f"a value is nested more than {_MAX_DEPTH} deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
