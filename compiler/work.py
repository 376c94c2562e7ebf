"""What the steps of the pipeline hand on to one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from precast.artifacts.manifest import Manifest
from precast.compiler.buckets.workload import Workload
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.graph import LoweredGraph
from precast.compiler.lowering.backend import Backend
from precast.compiler.options import CompileOptions
from precast.compiler.tasks.encode import ModelPlan
from precast.graphs.buckets import Buckets
from precast.graphs.encode import Task


@dataclass
class Work:
    """Each step fills in what the ones after it read."""

    options: CompileOptions
    folder: Path
    checkpoint: Checkpoint = field(init=False)
    task: Task = field(init=False)
    settings: SentenceSettings = field(init=False)
    tokenizer: TokenizerFacts | None = field(init=False)
    workload: Workload | None = field(init=False)
    plan: ModelPlan = field(init=False)
    backend: Backend = field(init=False)
    graphs: tuple[LoweredGraph, ...] = ()
    graph_buckets: dict[str, Buckets] = field(default_factory=dict)
    """By graph, those that were fitted to workload, in place of the plan's."""
    costs: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By graph, measured seconds of a batch at each bucket."""
    manifest: Manifest = field(init=False)
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, Path]:
        """Every file of a graph: its path within the artifact, and where it lies in the cache."""
        return {variant.file: variant.lowered.path for graph in self.graphs for variant in graph.variants}

    @property
    def from_cache(self) -> bool:
        """Whether every graph was compiled before."""
        return all(variant.from_cache for graph in self.graphs for variant in graph.variants)
