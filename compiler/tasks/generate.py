"""Encoder-decoders that generate: ``encode_source``, ``decode``, ``logits_processors`` and ``sample.*``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from precast.artifacts.manifest import GenerateManifest
from precast.artifacts.output_info import GenerateInfo
from precast.compiler.buckets.profile import opened_encode_source
from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.generation_config import read_generation_config
from precast.compiler.frontend.sentence_transformers import SentenceSettings
from precast.compiler.frontend.tokenizer import TokenizerFacts, read_generation_tokenizer
from precast.compiler.graph import GraphSpec
from precast.compiler.models import spec
from precast.compiler.models.build import Built, build_seq2seq
from precast.compiler.models.seq2seq import Decode, EncodeSource, Seq2Seq
from precast.compiler.models.spec import Seq2SeqSpec
from precast.compiler.options import CompileOptions
from precast.compiler.quantization.calibration import random_inputs, run_seq2seq
from precast.compiler.quantization.quantize import quantize
from precast.compiler.sampling.beam import Beam
from precast.compiler.sampling.greedy import Greedy
from precast.compiler.sampling.logits_processors import LogitsProcessors
from precast.compiler.sampling.multinomial import Multinomial
from precast.compiler.targets.target import Target
from precast.compiler.tasks.encode import count_parameters, graph_content, refuse_fp16_overflow
from precast.compiler.tasks.limits import generate_limits
from precast.compiler.tasks.task import Source, Task, TaskModel
from precast.compiler.verify.generation_parity import check_generation_parity
from precast.compiler.verify.speed import run_generation_example
from precast.graphs.encode import TOKENS
from precast.graphs.generation import generation_buckets, generation_signatures
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import SOURCE_BATCH_TOKENS, GenerateLimits, KVCacheShape

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def kv_cache_shapes(decoder: spec.DecoderSpec, dtype: torch.dtype) -> tuple[KVCacheShape, KVCacheShape]:
    """Return the shapes of the self-attention and the cross-attention KV cache."""

    def shape(attention: spec.AttentionSpec) -> KVCacheShape:
        return KVCacheShape(len(decoder.layers), attention.heads, attention.head_dim, _NAMES[dtype])

    first = decoder.layers[0]
    return shape(first.attention), shape(first.cross_attention)


def generation_modules(
    model: Seq2Seq, limits: GenerateLimits, dtype: torch.dtype, target: Target
) -> dict[GraphName, nn.Module]:
    """Return the module of each graph, in the order of the manifest."""
    packed_ops = target.packed_ops(dtype, limits.max_source_length)
    return {
        GraphName.ENCODE_SOURCE: EncodeSource(model, packed_ops, target.write_source),
        GraphName.DECODE: decode_module(model, target, 1),
        GraphName.LOGITS_PROCESSORS: LogitsProcessors(),
        GraphName.SAMPLE_GREEDY: Greedy(),
        GraphName.SAMPLE_MULTINOMIAL: Multinomial(),
        GraphName.SAMPLE_BEAM: Beam(),
    }


def decode_module(model: Seq2Seq, target: Target, sequences: int) -> Decode:
    """Return the decode step, tuned for a number of sequences, with the parameters of ``model``."""
    return Decode(target.decoder(model, sequences), target.decode_ops(sequences))


def _build(source: Source, target: Target, options: CompileOptions) -> TaskModel:
    checkpoint, dtype = source.checkpoint, options.torch_dtype
    defaults = read_generation_config(checkpoint)
    built = build_seq2seq(checkpoint, dtype)
    spec, parameters = built.spec, count_parameters(built.module)
    overflows = family_of(checkpoint.config.model_type).overflows_fp16
    refuse_fp16_overflow(overflows, spec.family, options)
    limits = generate_limits(options, spec, source.tokenizer, defaults)
    self_kv, cross_kv = kv_cache_shapes(spec.decoder, dtype)
    model = built.module
    if options.quantize is not None:
        inputs = random_inputs(spec.embeddings.vocab_size, limits.max_source_length, source.tokenizer)
        start = defaults.decoder_start_token_id or 0
        model = quantize(model, partial(run_seq2seq, model, (self_kv, cross_kv), start, inputs))
    output = GenerateInfo(
        size=spec.hidden_size,
        vocab_size=spec.decoder.head.vocab_size,
        self_kv=self_kv,
        cross_kv=cross_kv,
        defaults=defaults,
    )
    return TaskModel(
        family=spec.family,
        parameters=parameters,
        vocab_size=spec.embeddings.vocab_size,
        hidden_size=spec.hidden_size,
        token_types=False,
        limits=limits,
        graphs=_graphs(replace(built, module=model), limits, output, target, options),
        output=output,
        dropped=built.dropped,
    )


def _graphs(
    built: Built[Seq2SeqSpec, Seq2Seq],
    limits: GenerateLimits,
    output: GenerateInfo,
    target: Target,
    options: CompileOptions,
) -> tuple[GraphSpec, ...]:
    signatures = generation_signatures(
        limits,
        output.self_kv,
        output.cross_kv,
        hidden_size=output.size,
        vocab_size=output.vocab_size,
        device=target.device,
    )
    content = graph_content(built.spec, target, options)
    specs = []
    for name, module in generation_modules(built.module, limits, options.torch_dtype, target).items():
        buckets = generation_buckets(name, limits, target.device)
        each_size = name is GraphName.DECODE and target.traces_each_size
        specs.append(
            GraphSpec(
                module=module,
                signature=signatures[name],
                buckets=buckets,
                largest=limits.max_tokens if buckets.axis == TOKENS else limits.max_num_seqs,
                # Models share the graphs without weights.
                content=content if module.state_dict() else None,
                module_for=partial(decode_module, built.module, target) if each_size else None,
            )
        )
    return tuple(specs)


def _read_tokenizer(checkpoint: Checkpoint, settings: SentenceSettings) -> TokenizerFacts | None:
    return read_generation_tokenizer(checkpoint)


def _default_batch_tokens(model: TaskModel, target: Target) -> int:
    return max(SOURCE_BATCH_TOKENS, model.limits.max_input_length)


GENERATE = Task(
    manifest=GenerateManifest,
    read_tokenizer=_read_tokenizer,
    build=_build,
    check_parity=check_generation_parity,
    run_example=run_generation_example,
    open_profiled=opened_encode_source,
    default_batch_tokens=_default_batch_tokens,
)
