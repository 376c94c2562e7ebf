"""The same module with other layers in the place of some, over the same tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def replace_modules(module: Module, other: Callable[[str, nn.Module], nn.Module | None]) -> Module:
    """A copy of ``module`` that shares its tensors.

    Args:
        module: to copy.
        other: from the name of a module inside it and that module, what shall stand in its place; None keeps
            it and goes on with what is inside.
    """
    shared: dict[int, object] = {id(one): one for one in chain(module.parameters(), module.buffers())}
    copied = copy.deepcopy(module, shared)
    _replace(copied, "", other)
    return copied


def _replace(parent: nn.Module, prefix: str, other: Callable[[str, nn.Module], nn.Module | None]) -> None:
    for name, child in parent.named_children():
        instead = other(prefix + name, child)
        if instead is None:
            _replace(child, f"{prefix}{name}.", other)
        else:
            setattr(parent, name, instead)
