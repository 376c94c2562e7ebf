"""The plan of an encoder-decoder that generates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from precast.artifacts.manifest import GenerateInfo, ParityInfo
from precast.compiler.cache import GraphSource
from precast.compiler.errors import CompileError
from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.generation_config import read_generation_config
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.models.build_seq2seq import BuiltSeq2Seq, build_seq2seq
from precast.compiler.options import CompileOptions
from precast.compiler.quantization.calibration import random_inputs, run_seq2seq
from precast.compiler.quantization.quantize import quantize
from precast.compiler.tasks.encode import GraphPlan, ModelPlan, count_parameters, graph_content
from precast.compiler.tasks.generation_graphs import GraphModule, generation_graphs, kv_cache_shapes
from precast.compiler.tasks.limits import resolve_generate_limits
from precast.graphs.encode import TOKENS
from precast.graphs.generation import generation_buckets
from precast.graphs.seq2seq import GenerateLimits


def plan_generation(
    options: CompileOptions, checkpoint: Checkpoint, tokenizer: TokenizerFacts | None
) -> ModelPlan:
    """The graphs ``encode_source``, ``decode``, ``rules`` and ``sample.*``.

    Raises:
        CompileError: its subclasses say why.
    """
    defaults = read_generation_config(checkpoint)
    built = build_seq2seq(checkpoint, options.torch_dtype)
    spec, parameters = built.spec, count_parameters(built.module)
    if options.dtype == "fp16" and family_of(checkpoint.config.model_type).overflows_fp16:
        raise CompileError(f"family {spec.family} overflows in fp16; choose bf16 or fp32")
    limits = resolve_generate_limits(options, spec, tokenizer, defaults)
    own, cross = kv_cache_shapes(spec.decoder, options.torch_dtype)
    if options.quantize is not None:
        inputs = random_inputs(spec.embeddings.vocab_size, limits.max_source_length, tokenizer)
        start = defaults.decoder_start_token_id or 0
        run = partial(run_seq2seq, built.module, (own, cross), start, inputs)
        built = replace(built, module=quantize(built.module, run))
    graphs = generation_graphs(built, limits, options.torch_dtype, options.kernels)
    return ModelPlan(
        family=spec.family,
        task="generate",
        module=built.module,
        parameters=parameters,
        vocab_size=spec.embeddings.vocab_size,
        hidden_size=spec.hidden_size,
        token_types=False,
        limits=limits,
        graphs=tuple(_plan(graph, limits, built, options) for graph in graphs),
        output=GenerateInfo(
            size=spec.hidden_size,
            vocab_size=spec.decoder.head.vocab_size,
            self_kv=own,
            cross_kv=cross,
            defaults=defaults,
        ),
        dropped=built.dropped,
        check=_check,
    )


def _plan(
    graph: GraphModule, limits: GenerateLimits, built: BuiltSeq2Seq, options: CompileOptions
) -> GraphPlan:
    # What has no weights is the same for all models of these limits and this vocabulary.
    weighted = bool(graph.module.state_dict())
    content = graph_content(built.spec, options) if weighted else None
    name = graph.signature.graph
    buckets = generation_buckets(name, limits, options.device_kind)
    source = GraphSource(graph.module, graph.signature, content, graph.tuned)
    return GraphPlan(source, buckets, limits.max_tokens if buckets.axis == TOKENS else limits.max_num_seqs)


def _check(engine: Any, checkpoint: Checkpoint) -> ParityInfo:
    from precast.compiler.verify.generation_parity import check_generation_parity

    check: Callable[[Any, Checkpoint], ParityInfo] = check_generation_parity
    return check(engine, checkpoint)
