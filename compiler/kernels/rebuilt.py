"""The same module with other layers in the place of some, over the same tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def rebuilt(module: Module, other: Callable[[nn.Module], nn.Module | None]) -> Module:
    """A copy of ``module`` that shares its tensors.

    Args:
        module: to copy.
        other: for a child, what shall stand in its place; None keeps it and goes on with its children.
    """
    shared: dict[int, object] = {id(one): one for one in chain(module.parameters(), module.buffers())}
    copied = copy.deepcopy(module, shared)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            instead = other(child)
            if instead is not None:
                setattr(parent, name, instead)
    return copied
