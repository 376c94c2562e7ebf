"""What a backend is: how it compiles a module to one file, and what that file needs when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Signature


@dataclass(frozen=True)
class CompiledFile:
    """The file that a backend made of a graph.

    Attributes:
        path: where it lies now.
        weights: ``bound`` by name when it is loaded, or ``prepacked`` inside.
        constants: tensors of the module's state that must be bound by name.
        choices: for each matrix multiplication that was searched for, the kernel that won.
    """

    path: Path
    weights: Literal["bound", "prepacked"]
    constants: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backend:
    """A way to compile graphs. All of it can be pickled, so that graphs can be compiled in other processes.

    Attributes:
        name: what the manifest calls it and the runtime looks up.
        suffix: of its files.
        settings: all that a file depends on besides the module, its signature and its size; part of the
            cache key and of the manifest.
        carries_weights: whether a file holds the weights, so that the cache key must.
        compile: from module, signature, the size that kernels are tuned for (of the axis that the graph is
            bucketed by) and a folder to write into.
        tuned_at: sizes by graph, ascending; each gives a variant, used up to halfway to the next.
        times_kernels: whether compiling times kernels, so that nothing else may run meanwhile.
    """

    name: str
    suffix: str
    settings: Mapping[str, bool | int | str]
    carries_weights: bool
    compile: Callable[[nn.Module, Signature, int, Path], CompiledFile]
    tuned_at: Mapping[GraphName, tuple[int, ...]] = field(default_factory=dict)
    times_kernels: bool = False
