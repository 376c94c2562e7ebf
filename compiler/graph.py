"""``GraphSpec``, a graph to compile, and ``CompiledGraph``, its compiled files."""

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
        module: the module to trace.
        signature: inputs and outputs of the graph.
        buckets: sizes at which the graph is profiled and, on CUDA, captured.
        largest: largest size on the buckets' axis; on CUDA the buckets may end before it.
        content: JSON description of the module without its weights, for the cache key. None for a graph
            without weights: source code and signature describe it completely.
        module_for: returns the module, with the same weights, tuned for a number of sequences; None if the
            module does not depend on it.
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
        """Return the options for this graph; a graph without weights is neither prepacked nor autotuned."""
        return replace(options, prepack=False, autotune=False) if self.content is None else options


@dataclass(frozen=True)
class GraphVariant:
    """One file of a graph; several hold the same operators with kernels tuned for different sizes.

    Attributes:
        spec: the graph.
        size: size on the buckets' axis that the kernels are tuned for.
        max_size: largest size that this variant runs.
        file: path of the file within the artifact.
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
    """Return the variants of a graph that ``backend`` compiles, by ascending size."""
    example = example_sizes(spec.signature)[spec.buckets.axis]
    sizes = sorted({min(size, spec.largest) for size in backend.tuned_at.get(spec.name, (example,))})
    result = []
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        # The geometric mean, which has the same ratio to the sizes that both variants are tuned for.
        max_size = spec.largest if following is None else math.isqrt(size * following)
        tag = f".{size}" if len(sizes) > 1 else ""
        result.append(GraphVariant(spec, size, max_size, f"graphs/{spec.name}{tag}{backend.suffix}"))
    return tuple(result)


@dataclass(frozen=True)
class CompiledVariant:
    """A variant with its file.

    Attributes:
        variant: the variant.
        compiled: the file that was compiled or read from the cache.
        from_cache: whether the file was read from the cache.
    """

    variant: GraphVariant
    compiled: CompiledFile
    from_cache: bool


@dataclass(frozen=True)
class CompiledGraph:
    """A graph with all its variants, which bind the same weights."""

    spec: GraphSpec
    variants: tuple[CompiledVariant, ...]

    def __post_init__(self) -> None:
        bound = {variant.compiled.constants for variant in self.variants}
        if len(bound) > 1 or (self.spec.content is None and bound != {()}):
            raise LoweringError(
                f"graph {self.spec.name} binds unexpected weights: {sorted(bound)}; please report it"
            )

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the tensors that the graph binds."""
        return self.variants[0].compiled.constants

    def bound_weights(self) -> dict[str, Tensor]:
        """Return the tensors that the graph binds, by name."""
        state = self.spec.module.state_dict()
        return {name: state[name].detach().contiguous() for name in self.constants}

    def files(self) -> dict[str, Path]:
        """Return the current path of each file, by its path within the artifact."""
        return {compiled.variant.file: compiled.compiled.path for compiled in self.variants}

    def info(self, buckets: Buckets | None, costs: tuple[float, ...] | None) -> GraphInfo:
        """Return the manifest's entry of the graph.

        Args:
            buckets: Fitted buckets; None for the buckets of the spec.
            costs: Seconds of a batch at each bucket; None if they were not profiled.
        """
        first = self.variants[0].compiled
        files = [variant.compiled for variant in self.variants]
        prepacked = [file.path for file in files if file.weights == "prepacked"]
        return GraphInfo(
            variants=tuple(
                VariantInfo(
                    file=compiled.variant.file,
                    max_size=compiled.variant.max_size,
                    tuned_at=compiled.variant.size,
                    choices=dict(compiled.compiled.choices),
                )
                for compiled in self.variants
            ),
            signature=self.spec.signature,
            buckets=buckets or self.spec.buckets,
            costs=costs,
            weights=first.weights,
            constants=self.constants,
            prepacked_bytes=sum(path.stat().st_size for path in prepacked),
        )
