"""Backends: how a module is compiled to one file, and what that file needs at run time."""

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
    """A compiled graph.

    Attributes:
        path: its file.
        weights: ``bound`` by name when the file is loaded, or ``prepacked`` inside it.
        constants: names of the module's tensors that must be bound.
        choices: the fastest kernel of each autotuned matrix multiplication.
    """

    path: Path
    weights: Literal["bound", "prepacked"]
    constants: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backend:
    """A way to compile graphs. It can be pickled, so that other processes can compile.

    Attributes:
        name: name in the manifest, by which the runtime selects the loader.
        suffix: suffix of its files.
        settings: everything that a file depends on besides the module, its signature and its size; part of
            the cache key and of the manifest.
        carries_weights: whether files contain the weights, so that the cache key must include them.
        compile: compiles a module with its signature, the size of the bucketed axis that kernels are tuned
            for, and a folder to write into.
        tuned_at: sizes by graph, ascending; each gives a variant, used up to halfway to the next.
        times_kernels: whether compiling times kernels, so that nothing else may run at the same time.
    """

    name: str
    suffix: str
    settings: Mapping[str, bool | int | str]
    carries_weights: bool
    compile: Callable[[nn.Module, Signature, int, Path], CompiledFile]
    tuned_at: Mapping[GraphName, tuple[int, ...]] = field(default_factory=dict)
    times_kernels: bool = False
