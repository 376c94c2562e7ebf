"""What a backend is: how it turns a module into one file, and what that file needs when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Backend:
    """A way to lower graphs.

    ``settings`` is everything besides the module and its signature that the file depends on; it goes
    into the cache key and into the manifest.
    """

    name: Literal["inductor", "reference"]
    suffix: str
    settings: dict[str, bool | int | str]
    carries_weights: bool
    lower: Callable[[nn.Module, Signature, Path], Lowered]
