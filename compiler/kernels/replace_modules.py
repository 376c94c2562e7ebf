"""Replaces layers of a module with other implementations that share its tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)
Replacement = Callable[[str, nn.Module], nn.Module | None]
"""Maps the qualified name of a submodule, and the submodule, to its replacement; None keeps it."""


def replace_modules(module: Module, replacement: Replacement) -> Module:
    """Copy ``module`` with some of its submodules replaced; the copy shares its tensors.

    Args:
        module: to copy; never replaced itself.
        replacement: called for each submodule, from the outside in. Submodules of a replaced one are not
            visited.
    """
    shared: dict[int, object] = {
        id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())
    }
    copied = copy.deepcopy(module, shared)
    _replace_children(copied, "", replacement)
    return copied


def _replace_children(parent: nn.Module, prefix: str, replacement: Replacement) -> None:
    for name, child in parent.named_children():
        new = replacement(prefix + name, child)
        if new is None:
            _replace_children(child, f"{prefix}{name}.", replacement)
        else:
            parent.set_submodule(name, new)
