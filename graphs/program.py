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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from precast.graphs import strict_json
from precast.graphs.errors import ProgramError

_MAX_DEPTH = 8
"""Lists within lists. Traced calls need three; reading a value calls itself once a level."""


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

    ``weights`` maps a name used in the calls to the name of a tensor in the weights file. Calls change
    nothing: an input is written once all of them are done.
    """

    inputs: tuple[str, ...]
    weights: Mapping[str, str]
    calls: tuple[Call, ...]
    outputs: tuple[str, ...]
    writes: Mapping[str, str] = field(default_factory=dict)
    """For inputs that are changed: the name of the value that each ends with."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Raises ProgramError: the text is no program."""
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
                f"this is no portable program: {error!r}; compile the artifact again"
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
    """Everything after this walks a value by calling itself."""
    if isinstance(value, (list, dict)):
        if left == 0:
            raise ValueError(f"a value is nested more than {_MAX_DEPTH} deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)
