"""The manifest of what a compilation has put into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import precast
from precast.artifacts import host
from precast.artifacts.build_info import BuildInfo, CudaInfo
from precast.artifacts.manifest import (
    FORMAT_VERSION,
    EncodeManifest,
    GenerateManifest,
    GraphInfo,
    Manifest,
    ModelInfo,
    ParityInfo,
    TokenizationInfo,
    VariantInfo,
)
from precast.artifacts.writer import folder_info
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.graph import LoweredGraph
from precast.compiler.lowering.choice import compute_capability
from precast.compiler.options import CompileOptions
from precast.compiler.tasks.encode import ModelPlan
from precast.compiler.work import Work

WEIGHTS_FILE = "weights.safetensors"
TOKENIZER_FILE = "tokenizer.json"


def describe(work: Work, parity: ParityInfo | None = None) -> Manifest:
    """The manifest of what lies in the folder now; its files are hashed."""
    options, plan = work.options, work.plan
    graphs = describe_graphs(work)
    kind: Any = GenerateManifest if plan.task == "generate" else EncodeManifest
    manifest: Manifest = kind(
        format_version=FORMAT_VERSION,
        model=_model_info(options, plan),
        build=_build_info(work),
        limits=plan.limits,
        graphs=graphs,
        weights=WEIGHTS_FILE if any(graph.constants for graph in graphs.values()) else None,
        tokenization=_tokenization(work.tokenizer, plan.token_types),
        output=plan.output,
        parity=parity,
        notes=tuple(work.notes),
        files=folder_info(work.folder),
    )
    return manifest


def describe_graphs(work: Work) -> dict[str, GraphInfo]:
    """What the manifest says of each graph."""
    return {graph.plan.name: _graph_info(graph, work) for graph in work.graphs}


def _graph_info(graph: LoweredGraph, work: Work) -> GraphInfo:
    name = graph.plan.name
    lowered = [variant.lowered for variant in graph.variants]
    return GraphInfo(
        variants=tuple(
            VariantInfo(
                file=variant.file,
                max_size=variant.max_size,
                tuned_at=variant.tuned_at,
                choices=dict(variant.lowered.choices),
            )
            for variant in graph.variants
        ),
        signature=graph.plan.source.signature,
        buckets=work.graph_buckets.get(name, graph.plan.buckets),
        costs=work.costs.get(name),
        weights=lowered[0].weights,
        constants=graph.constants,
        prepacked_bytes=sum(one.path.stat().st_size for one in lowered if one.weights == "prepacked"),
    )


def _model_info(options: CompileOptions, plan: ModelPlan) -> ModelInfo:
    return ModelInfo(
        name=Path(options.model).name if Path(options.model).is_dir() else options.model,
        family=plan.family,
        task=plan.task,
        parameters=plan.parameters,
        vocab_size=plan.vocab_size,
        hidden_size=plan.hidden_size,
    )


def _build_info(work: Work) -> BuildInfo:
    options, backend = work.options, work.backend
    return BuildInfo(
        precast=precast.__version__,
        torch=host.torch_release(),
        target=options.kernels,
        backend=backend.name,
        device=options.device_kind,
        dtype=options.dtype,
        quantization=options.quantize,
        architecture=host.architecture(),
        instruction_sets=tuple(sorted(host.instruction_sets())) if backend.name == "inductor" else (),
        cuda=_cuda_info(options),
        options=backend.settings,
    )


def _cuda_info(options: CompileOptions) -> CudaInfo | None:
    if options.device_kind == "cpu":
        return None
    return CudaInfo(release=str(host.cuda_release()), compute_capability=compute_capability(options))


def _tokenization(found: TokenizerFacts | None, token_types: bool) -> TokenizationInfo:
    if found is None:
        return TokenizationInfo(
            file=None, token_types=False, truncation_side="right", empty_id=0, special_ids=(),
            decoding=None, languages=None,
        )  # fmt: skip
    return TokenizationInfo(
        file=TOKENIZER_FILE,
        token_types=found.gives_token_types and token_types,
        truncation_side=found.truncation_side,
        empty_id=found.empty_id,
        special_ids=found.special_ids,
        decoding=found.decoding,
        languages=found.languages,
    )
