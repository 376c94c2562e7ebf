"""Builds the manifest of a compiled artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from precast._version import __version__
from precast.artifacts import host
from precast.artifacts.build_info import BuildInfo
from precast.artifacts.manifest import (
    FileInfo,
    Manifest,
    ModelInfo,
    ParityInfo,
    TokenizationInfo,
)
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.graph import CompiledGraph
from precast.compiler.options import CompileOptions
from precast.compiler.targets.registry import lowering_options
from precast.compiler.targets.target import Target
from precast.compiler.tasks.task import Source, Task, TaskModel
from precast.graphs.buckets import Buckets
from precast.graphs.graph_names import GraphName

WEIGHTS_FILE = "weights.safetensors"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class BucketSelection:
    """Fitted buckets and measured costs by graph, with notes for the manifest."""

    buckets: Mapping[GraphName, Buckets] = field(default_factory=dict)
    costs: Mapping[GraphName, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """An artifact whose files are written, but which was not profiled, verified or published yet.

    Attributes:
        folder: directory with the files.
        options: options of the compilation.
        target: target that the graphs were compiled for.
        task: task of the model.
        source: checkpoint with its settings and tokenizer.
        model: description of the model, for the manifest.
        graphs: compiled graphs, in the order of the manifest.
        files: sizes and hashes of all files in ``folder``.
        notes: notes for the manifest.
    """

    folder: Path
    options: CompileOptions
    target: Target
    task: Task
    source: Source
    model: TaskModel
    graphs: tuple[CompiledGraph, ...]
    files: Mapping[str, FileInfo]
    notes: tuple[str, ...]

    def manifest(
        self,
        selection: BucketSelection | None = None,
        parity: ParityInfo | None = None,
        notes: Sequence[str] = (),
    ) -> Manifest:
        """Return the manifest.

        Args:
            selection: Fitted buckets and their costs; default the buckets of the graphs, without costs.
            parity: Errors relative to Hugging Face; None if they were not computed.
            notes: Notes to append to those of the draft and the selection.
        """
        selection = selection or BucketSelection()
        manifest: Manifest = self.task.manifest(
            format_version=2,
            model=self._model_info(),
            build=self._build_info(),
            limits=self.model.limits,  # type: ignore[arg-type]
            graphs={
                graph.spec.name: graph.info(
                    selection.buckets.get(graph.spec.name), selection.costs.get(graph.spec.name)
                )
                for graph in self.graphs
            },
            weights=WEIGHTS_FILE if any(graph.constants for graph in self.graphs) else None,
            tokenization=_tokenization(self.source.tokenizer, self.model.token_types),
            output=self.model.output,  # type: ignore[arg-type]
            parity=parity,
            notes=(*self.notes, *selection.notes, *notes),
            files=dict(self.files),
        )
        return manifest

    def _model_info(self) -> ModelInfo:
        model = self.options.model
        return ModelInfo(
            name=Path(model).name if Path(model).is_dir() else model,
            family=self.model.family,
            task=self.source.task,
            parameters=self.model.parameters,
            vocab_size=self.model.vocab_size,
            hidden_size=self.model.hidden_size,
        )

    def _build_info(self) -> BuildInfo:
        options, target = self.options, self.target
        lowering = lowering_options(options)
        return BuildInfo(
            precast=__version__,
            torch=host.torch_release(),
            target=target.name,
            backend=target.backend_name,
            device=target.device,
            dtype=options.dtype,
            quantization=options.quantize,
            architecture=host.architecture(),
            instruction_sets=() if target.portable else tuple(sorted(host.instruction_sets())),
            cuda=target.cuda(lowering),
            options=dict(target.backend(lowering).settings),
        )


def _tokenization(tokenizer: TokenizerFacts | None, token_types: bool) -> TokenizationInfo:
    if tokenizer is None:
        return TokenizationInfo(
            file=None, token_types=False, truncation_side="right", empty_id=0, special_ids=(),
            decoding=None, languages=None,
        )  # fmt: skip
    return TokenizationInfo(
        file=TOKENIZER_FILE,
        token_types=tokenizer.gives_token_types and token_types,
        truncation_side=tokenizer.truncation_side,
        empty_id=tokenizer.empty_id,
        special_ids=tokenizer.special_ids,
        decoding=tokenizer.decoding,
        languages=tokenizer.languages,
    )
