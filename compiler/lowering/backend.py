"""``Backend``, which compiles a module to a file, and ``CompiledFile``, its result."""

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
    """The compiled file of a graph.

    Attributes:
        path: current path of the file.
        weights: ``bound`` if weights are bound by name at load time, ``prepacked`` if the file holds them.
        constants: names of the tensors in the module's state that must be bound.
        choices: fastest kernel of each matrix multiplication that was autotuned.
    """

    path: Path
    weights: Literal["bound", "prepacked"]
    constants: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backend:
    """A way to compile graphs. It can be pickled, because graphs are compiled in other processes.

    Attributes:
        name: name of the backend in the manifest, by which the runtime selects its loader.
        suffix: suffix of compiled files.
        settings: everything besides module, signature and size that a compiled file depends on; part of the
            cache key and the manifest.
        carries_weights: whether a file holds the weights; they are part of the cache key then.
        compile: compiles a module, given its signature, the size on the buckets' axis that kernels are tuned
            for, and a folder to write to.
        tuned_at: sizes by graph, ascending; one variant is compiled for each.
        times_kernels: whether compilation times kernels; nothing else should run meanwhile.
    """

    name: str
    suffix: str
    settings: Mapping[str, bool | int | str]
    carries_weights: bool
    compile: Callable[[nn.Module, Signature, int, Path], CompiledFile]
    tuned_at: Mapping[GraphName, tuple[int, ...]] = field(default_factory=dict)
    times_kernels: bool = False
