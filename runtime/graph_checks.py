"""Checks that the graphs of an artifact have the inputs, outputs and sizes that this runtime expects."""

from __future__ import annotations

from itertools import zip_longest
from reprlib import repr as shortened
from typing import Any

from precast.artifacts.errors import ManifestError
from precast.artifacts.manifest import (
    ClassifyInfo,
    EmbedInfo,
    EncodeManifest,
    GenerateManifest,
    GraphInfo,
)
from precast.graphs.buckets import Buckets
from precast.graphs.encode import EncodeOutput, encode_output, encode_signature
from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Signature


def output_of(manifest: EncodeManifest) -> EncodeOutput:
    """Return the output tensor of ``encode`` that the manifest's description of outputs implies."""
    output = manifest.output
    size = len(output.labels) if isinstance(output, ClassifyInfo) else output.size
    return encode_output(manifest.model.task, size)


def check_encode_graph(manifest: EncodeManifest) -> None:
    """Check the graph ``encode``.

    Raises:
        ManifestError: Its signature, buckets or variants differ from what this runtime uses.
    """
    limits, output, device = manifest.limits, manifest.output, manifest.build.device
    graph = manifest.graphs[GraphName.ENCODE]
    names = {buffer.name for buffer in graph.signature.inputs}
    expected = encode_signature(
        limits,
        output_of(manifest),
        device=device,
        token_types="token_type_ids" in names,
        prompt_lengths=isinstance(output, EmbedInfo) and not output.include_prompt,
    )
    _check_signature(graph.signature, expected)
    buckets = limits.buckets("cpu")
    # On CUDA larger batches run without a captured graph.
    _check_buckets("encode", graph.buckets, buckets, may_end_before=device == "cuda")
    _check_variants("encode", graph, buckets)


def check_generation_graphs(manifest: GenerateManifest) -> None:
    """Check all graphs of an encoder-decoder.

    Raises:
        ManifestError: The signature, buckets or variants of a graph differ from what this runtime uses.
    """
    model, device, output, limits = manifest.model, manifest.build.device, manifest.output, manifest.limits
    if output.size != model.hidden_size:
        raise ManifestError(f"the output has size {output.size}, the model {model.hidden_size}")
    expected = generation_signatures(
        limits,
        output.self_kv,
        output.cross_kv,
        hidden_size=output.size,
        vocab_size=output.vocab_size,
        device=device,
    )
    for name, signature in expected.items():
        graph = manifest.graphs[name]
        _check_signature(graph.signature, signature)
        _check_buckets(name, graph.buckets, generation_buckets(name, limits, device))
        _check_variants(name, graph, generation_buckets(name, limits, "cpu"))
        if device == "cpu" and len(graph.variants) > 1:
            raise ManifestError(f"graph {name} has {len(graph.variants)} variants, on a CPU there is one")


def _check_signature(actual: Signature, expected: Signature) -> None:
    for part in ("axes", "inputs", "outputs", "written"):
        pair = _first_difference(getattr(actual, part), getattr(expected, part))
        if pair is not None:
            raise ManifestError(
                f"the {part} of graph {expected.graph} differ from what this runtime uses: found {pair[0]}, "
                f"expected {pair[1]}; compile the artifact again"
            )
    if actual.graph != expected.graph:
        raise ManifestError(
            f"the graph {expected.graph} is named {shortened(actual.graph)}; compile the artifact again"
        )


def _first_difference(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> tuple[Any, Any] | None:
    pairs = zip_longest(actual, expected)
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


def _check_buckets(name: str, actual: Buckets, limit: Buckets, *, may_end_before: bool = False) -> None:
    fits = actual.top <= limit.top if may_end_before else actual.top == limit.top
    if actual.axis != limit.axis or not fits:
        raise ManifestError(
            f"the buckets of graph {name} end at {actual.top} {actual.axis}, its limits at {limit.top} "
            f"{limit.axis}; compile the artifact again"
        )


def _check_variants(name: str, graph: GraphInfo, buckets: Buckets) -> None:
    actual = [variant.max_size for variant in graph.variants]
    if actual != sorted(set(actual)) or actual[-1] != buckets.top:
        raise ManifestError(
            f"the variants of graph {name} hold {actual} {buckets.axis}, expected ascending numbers up to "
            f"{buckets.top}; compile the artifact again"
        )
