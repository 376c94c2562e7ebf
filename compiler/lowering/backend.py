"""What a backend is: how it turns a module into one file, and what that file needs when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from precast.graphs.signature import Signature


@dataclass(frozen=True)
class Lowered:
    """A graph as a file, before it is part of an artifact."""

    path: Path
    weights: Literal["bound", "prepacked"]
    constants: tuple[str, ...]
    """Tensors of the module's state that must be bound by name."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """For each matrix multiplication that was searched for, the kernel that won."""


@dataclass(frozen=True)
class Backend:
    """A way to lower graphs.

    ``settings`` is everything besides the module, its signature and the size that the file depends on; it
    goes into the cache key and into the manifest. A graph's size is that of the axis it is bucketed by.
    """

    name: Literal["inductor", "reference"]
    suffix: str
    settings: dict[str, bool | int | str]
    carries_weights: bool
    lower: Callable[[nn.Module, Signature, int, Path], Lowered]
    """Module, signature, the size that kernels are chosen for, a folder to write into."""
    tuned_at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By the name of a graph, sizes, ascending; each gives a variant, used up to halfway to the next one."""
