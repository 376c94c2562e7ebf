"""Command-line options generated from the fields of a dataclass, so that each is written once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

_SHORT = {"output": "-o"}
"""One-letter forms of options."""


def options_from(
    dataclass: type[Any], *, arguments: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a Typer command one option for each field of a dataclass.

    The command's parameter ``make_options`` receives a function that builds the dataclass from the values on
    the command line. It is a function because the dataclass validates its fields: the command decides how its
    errors are shown.

    Args:
        dataclass: a dataclass whose fields may carry ``metadata={"help": "..."}``.
        arguments: names of the fields that are positional arguments.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        generated = list(_parameters(dataclass, arguments))
        names = [parameter.name for parameter in generated]

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            fields = {name: values.pop(name) for name in names}
            command(make_options=functools.partial(_build, dataclass, fields), **values)

        own = inspect.signature(command, eval_str=True).parameters
        rest = [parameter for name, parameter in own.items() if name != "make_options"]
        keyword = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*generated, *rest)
        ]
        wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {}
        return wrapper

    return decorate


def _build(dataclass: type[Any], values: Mapping[str, Any]) -> Any:
    """Build the dataclass; repeated options become tuples, and none given is the field's default."""
    given = {
        name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in values.items()
    }
    return dataclass(**{name: value for name, value in given.items() if value not in ((), None)})


def _parameters(dataclass: type[Any], arguments: Collection[str]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(dataclass)
    for field in dataclasses.fields(dataclass):
        if not field.init:
            continue
        kind, choices = _command_line_type(hints[field.name])
        text = _help(field.metadata.get("help", ""), choices)
        if field.name in arguments:
            option = typer.Argument(help=text)
        else:
            option = typer.Option(*_declarations(field.name, hints[field.name]), help=text)
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=Annotated[kind, option],
        )


def _help(text: str, choices: Sequence[str]) -> str:
    """The field's help, followed by the values it accepts unless the help names all of them."""
    if all(choice in text for choice in choices):
        return text
    return f"{text} One of {', '.join(choices)}.".strip()


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _declarations(name: str, hint: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if bool in _members(hint):
        return [f"{flag}/--no-{flag[2:]}"]
    return [flag, *([_SHORT[name]] if name in _SHORT else [])]


def _command_line_type(hint: Any) -> tuple[Any, list[str]]:
    """Return the type that Typer parses, and the values that a ``Literal`` accepts."""
    members = _members(hint)
    choices = [
        str(value) for member in members if get_origin(member) is Literal for value in get_args(member)
    ]
    plain = [member for member in members if get_origin(member) is not Literal and member is not type(None)]
    if choices:
        kind: Any = str
    elif get_origin(plain[0]) in (tuple, list):
        kind = list[get_args(plain[0])[0]]  # type: ignore[misc]
    else:
        kind = Path if Path in plain else plain[0]
    return (kind | None if type(None) in members else kind), choices


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
