"""The graphs of a plan, lowered: which files there are, and where each will lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from precast.compiler.cache import cached_lower
from precast.compiler.errors import LoweringError
from precast.compiler.lowering.backend import Backend, Lowered
from precast.compiler.lowering.choice import select_backend
from precast.compiler.lowering.trace import example_sizes
from precast.compiler.options import CompileOptions
from precast.compiler.tasks.encode import GraphPlan


@dataclass(frozen=True)
class Variant:
    """One lowered form of a graph."""

    file: str
    """Its path within the artifact."""
    lowered: Lowered
    tuned_at: int
    max_size: int
    from_cache: bool


@dataclass(frozen=True)
class LoweredGraph:
    """A graph in all its variants, which bind the same weights."""

    plan: GraphPlan
    variants: tuple[Variant, ...]

    @property
    def constants(self) -> tuple[str, ...]:
        return self.variants[0].lowered.constants


def backend_for(graph: GraphPlan, options: CompileOptions) -> Backend:
    """The backend that was asked for; a graph without weights has nothing to prepack or to search for.

    Raises:
        CompileError: there is no such device here.
    """
    if graph.source.content is None:
        options = replace(options, prepack=False, autotune=False, quantize=None)
    return select_backend(options)


def lowering_sizes(backend: Backend, graph: GraphPlan) -> list[int]:
    """The sizes for which a graph is lowered, ascending; each gives a variant."""
    example = example_sizes(graph.source.signature)[graph.buckets.axis]
    return sorted({min(size, graph.largest) for size in backend.tuned_at.get(graph.name, (example,))})


def lower_graph(graph: GraphPlan, options: CompileOptions) -> LoweredGraph:
    """Lower every variant, or take it from the cache.

    Raises:
        LoweringError: a graph cannot be lowered, or its variants bind different weights.
    """
    backend = backend_for(graph, options)
    sizes = lowering_sizes(backend, graph)
    variants = []
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        lowered, cached = cached_lower(backend, graph.source, size)
        # Halfway in ratio, where either one's kernels are as far from what they were chosen for.
        upto = graph.largest if following is None else math.isqrt(size * following)
        file = f"graphs/{graph.name}{f'.{size}' if len(sizes) > 1 else ''}{backend.suffix}"
        variants.append(Variant(file, lowered, size, upto, cached))
    bound = {variant.lowered.constants for variant in variants}
    if len(bound) > 1 or (graph.source.content is None and bound != {()}):
        raise LoweringError(f"graph {graph.name} binds weights that it should not; please report it")
    return LoweredGraph(graph, tuple(variants))
