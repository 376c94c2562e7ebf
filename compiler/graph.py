"""A graph on its way from a module to the manifest: ``GraphSpec``, ``CompiledGraph``, ``GraphInfo``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from precast.artifacts.manifest import GraphInfo, VariantInfo
from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.lowering.trace import example_sizes
from precast.compiler.targets.target import LoweringOptions
from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Signature


@dataclass(frozen=True)
class GraphSpec:
    """A graph to compile.

    Attributes:
        module: what it computes.
        signature: what it takes and returns.
        buckets: the sizes at which it will be profiled and, on CUDA, captured.
        largest: the largest size of the buckets' axis; on CUDA buckets may end before it.
        content: what the module was made from, besides weights, as JSON: part of the cache key. None for a
            graph without weights, which follows from our source code and its signature.
        module_for: the module for a number of sequences, with the same weights, if it depends on that.
    """

    module: nn.Module
    signature: Signature
    buckets: Buckets
    largest: int
    content: Mapping[str, Any] | None = None
    module_for: Callable[[int], nn.Module] | None = None

    @property
    def name(self) -> GraphName:
        return self.signature.graph

    def lowering_options(self, options: LoweringOptions) -> LoweringOptions:
        """Return the options for this graph: without weights there is nothing to prepack or to search for."""
        return replace(options, prepack=False, autotune=False) if self.content is None else options


@dataclass(frozen=True)
class GraphVariant:
    """One file of a graph; several hold the same operators with kernels tuned for different sizes.

    Attributes:
        spec: the graph.
        size: that its kernels are tuned for.
        max_size: the largest batch that it runs.
        file: its path within the artifact.
    """

    spec: GraphSpec
    size: int
    max_size: int
    file: str

    @property
    def module(self) -> nn.Module:
        """The module to trace."""
        return self.spec.module if self.spec.module_for is None else self.spec.module_for(self.size)


def variants(spec: GraphSpec, backend: Backend) -> tuple[GraphVariant, ...]:
    """Return the variants that ``backend`` makes of a graph, by ascending size."""
    example = example_sizes(spec.signature)[spec.buckets.axis]
    sizes = sorted({min(size, spec.largest) for size in backend.tuned_at.get(spec.name, (example,))})
    made = []
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        # Halfway in ratio, where the kernels of both are equally far from what they were tuned for.
        max_size = spec.largest if following is None else math.isqrt(size * following)
        tag = f".{size}" if len(sizes) > 1 else ""
        made.append(GraphVariant(spec, size, max_size, f"graphs/{spec.name}{tag}{backend.suffix}"))
    return tuple(made)


@dataclass(frozen=True)
class CompiledVariant:
    """A variant and the file that was compiled or found in the cache."""

    variant: GraphVariant
    compiled: CompiledFile
    from_cache: bool


@dataclass(frozen=True)
class CompiledGraph:
    """A graph in all its variants, which bind the same weights."""

    spec: GraphSpec
    variants: tuple[CompiledVariant, ...]

    def __post_init__(self) -> None:
        bound = {one.compiled.constants for one in self.variants}
        if len(bound) > 1 or (self.spec.content is None and bound != {()}):
            raise LoweringError(f"graph {self.spec.name} binds weights that it should not; please report it")

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the tensors that it binds."""
        return self.variants[0].compiled.constants

    def bound_weights(self) -> dict[str, Tensor]:
        """Return the tensors that it binds, by name."""
        state = self.spec.module.state_dict()
        return {name: state[name].detach().contiguous() for name in self.constants}

    def files(self) -> dict[str, Path]:
        """Return where each file lies now, by its path within the artifact."""
        return {one.variant.file: one.compiled.path for one in self.variants}

    def info(self, buckets: Buckets | None, costs: tuple[float, ...] | None) -> GraphInfo:
        """Return what the manifest says of it.

        Args:
            buckets: fitted ones; None for those of the spec.
            costs: measured seconds of a batch at each bucket.
        """
        first = self.variants[0].compiled
        prepacked = [one.compiled.path for one in self.variants if one.compiled.weights == "prepacked"]
        return GraphInfo(
            variants=tuple(
                VariantInfo(
                    file=one.variant.file,
                    max_size=one.variant.max_size,
                    tuned_at=one.variant.size,
                    choices=dict(one.compiled.choices),
                )
                for one in self.variants
            ),
            signature=self.spec.signature,
            buckets=buckets or self.spec.buckets,
            costs=costs,
            weights=first.weights,
            constants=self.constants,
            prepacked_bytes=sum(path.stat().st_size for path in prepacked),
        )
