"""Whether the graphs that a manifest describes take and give what this runtime fills and reads."""

from __future__ import annotations

from itertools import zip_longest
from reprlib import repr as shortened
from typing import Any

from precast.artifacts.errors import ManifestError
from precast.artifacts.manifest import (
    ClassifyInfo,
    EmbedInfo,
    GenerateInfo,
    GraphInfo,
    HiddenInfo,
    Manifest,
)
from precast.graphs.buckets import Buckets
from precast.graphs.encode import EncodeLimits, EncodeOutput, encode_output, encode_signature
from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits
from precast.graphs.signature import Signature

_ANSWERS = {
    "embed": EmbedInfo,
    "classify": ClassifyInfo,
    "rerank": ClassifyInfo,
    "token-classify": ClassifyInfo,
    "hidden": HiddenInfo,
    "generate": GenerateInfo,
}


def check_output_info(manifest: Manifest) -> None:
    """Whether the answers are those of the task.

    Raises:
        ManifestError: they are not.
    """
    task, answer = manifest.model.task, manifest.output
    if not isinstance(answer, _ANSWERS[task]):
        raise ManifestError(
            f"the manifest describes answers of kind {answer.kind}, which the task {task} does not give; "
            f"compile the artifact again"
        )


def output_of(manifest: Manifest) -> EncodeOutput:
    """The output of ``encode``, by what the manifest says of the answers."""
    answer = manifest.output
    size = len(answer.labels) if isinstance(answer, ClassifyInfo) else answer.size
    return encode_output(manifest.model.task, size)


def check_encode_graph(manifest: Manifest, limits: EncodeLimits) -> None:
    """Hold ``encode`` against what an encoder packs and reads.

    Raises:
        ManifestError: it is not there, or it is another one.
    """
    graph = manifest.graphs.get(GraphName.ENCODE)
    if graph is None:
        raise ManifestError(f"expected a graph named encode, found {shortened(sorted(manifest.graphs))}")
    answer, device = manifest.output, manifest.build.device
    names = {buffer.name for buffer in graph.signature.inputs}
    expected = encode_signature(
        limits,
        output_of(manifest),
        device=device,
        token_types="token_type_ids" in names,
        prompt_lengths=isinstance(answer, EmbedInfo) and not answer.include_prompt,
    )
    _check_signature(graph.signature, expected)
    buckets = limits.buckets("cpu")
    # On CUDA larger batches are called directly.
    _check_buckets("encode", graph.buckets, buckets, may_end_before=device == "cuda")
    _check_variants("encode", graph, buckets)


def check_generation_graphs(manifest: Manifest, answer: GenerateInfo, limits: GenerateLimits) -> None:
    """Hold all graphs of a ``generate`` artifact against what this runtime fills.

    Raises:
        ManifestError: one is another, or on a CPU comes in several files.
    """
    model, device = manifest.model, manifest.build.device
    if answer.size != model.hidden_size:
        raise ManifestError(f"the answer has size {answer.size}, the model {model.hidden_size}")
    expected = generation_signatures(
        limits,
        answer.self_kv,
        answer.cross_kv,
        hidden_size=answer.size,
        vocab_size=answer.vocab_size,
        device=device,
    )
    for name, signature in expected.items():
        graph = manifest.graphs[name]
        _check_signature(graph.signature, signature)
        _check_buckets(name, graph.buckets, generation_buckets(name, limits, device))
        _check_variants(name, graph, generation_buckets(name, limits, "cpu"))
        if device == "cpu" and len(graph.variants) > 1:
            raise ManifestError(f"graph {name} has {len(graph.variants)} variants, on a cpu there is one")


def _check_signature(found: Signature, expected: Signature) -> None:
    for part in ("axes", "inputs", "outputs", "written"):
        pair = _first_difference(getattr(found, part), getattr(expected, part))
        if pair is not None:
            raise ManifestError(
                f"the {part} of graph {expected.graph} are not those of this runtime: found {pair[0]}, "
                f"expected {pair[1]}; compile the artifact again"
            )
    if found.graph != expected.graph:
        raise ManifestError(
            f"the graph {expected.graph} calls itself {shortened(found.graph)}; compile the artifact again"
        )


def _first_difference(found: tuple[Any, ...], expected: tuple[Any, ...]) -> tuple[Any, Any] | None:
    pairs = zip_longest(found, expected)
    return next(((ours, theirs) for ours, theirs in pairs if ours != theirs), None)


def _check_buckets(name: str, found: Buckets, limit: Buckets, *, may_end_before: bool = False) -> None:
    fits = found.top <= limit.top if may_end_before else found.top == limit.top
    if found.axis != limit.axis or not fits:
        raise ManifestError(
            f"the buckets of graph {name} ends at {found.top} {found.axis}, its limits at {limit.top} "
            f"{limit.axis}; compile the artifact again"
        )


def _check_variants(name: str, graph: GraphInfo, buckets: Buckets) -> None:
    found = [variant.max_size for variant in graph.variants]
    if found != sorted(set(found)) or found[-1] != buckets.top:
        raise ManifestError(
            f"the variants of graph {name} hold {found} {buckets.axis}, expected ascending numbers up to "
            f"{buckets.top}; compile the artifact again"
        )
