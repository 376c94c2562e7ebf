"""Encoders: one graph, ``encode``, that returns embeddings, logits or hidden states."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from torch import nn

from precast.artifacts.manifest import EncodeManifest
from precast.artifacts.output_info import ClassifyInfo, EmbedInfo, HiddenInfo
from precast.compiler.buckets.profile import opened_encode
from precast.compiler.errors import CompileError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings, score_activation
from precast.compiler.frontend.tokenizer import TokenizerFacts, read_tokenizer
from precast.compiler.graph import GraphSpec
from precast.compiler.models.build import build_encoder, describe_model
from precast.compiler.models.spec import ClassifierSpec, EmbedderSpec, ModelSpec
from precast.compiler.options import CompileOptions
from precast.compiler.quantization.calibration import random_inputs, run_encoder
from precast.compiler.quantization.quantize import quantize
from precast.compiler.targets.target import Target
from precast.compiler.tasks.limits import encode_limits
from precast.compiler.tasks.task import Source, Task, TaskModel
from precast.compiler.verify.parity import check_parity
from precast.compiler.verify.speed import run_encoder_example
from precast.graphs.encode import BATCH_TOKENS, encode_output, encode_signature


def graph_content(spec: Any, target: Target, options: CompileOptions) -> dict[str, Any]:
    """Return the description of a graph with weights, apart from the weights, for the cache key."""
    return {
        "spec": asdict(spec),
        "target": target.name,
        "dtype": options.dtype,
        "quantize": options.quantize,
    }


def count_parameters(module: nn.Module) -> int:
    """Return the number of elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def refuse_fp16_overflow(overflows: bool, family: str, options: CompileOptions) -> None:
    """Check that hidden states of a family stay within the range of the dtype.

    Raises:
        CompileError: The dtype is fp16 and ``overflows`` is set.
    """
    if overflows and options.dtype == "fp16":
        raise CompileError(f"family {family} overflows in fp16; choose bf16 or fp32")


def _read_tokenizer(checkpoint: Checkpoint, settings: SentenceSettings) -> TokenizerFacts | None:
    return read_tokenizer(checkpoint, lower_case=settings.do_lower_case)


def _build(source: Source, target: Target, options: CompileOptions) -> TaskModel:
    if options.max_target_length is not None:
        raise CompileError(
            f"max_target_length is for task generate, found task {source.task}; remove the option"
        )
    described = describe_model(source.checkpoint, source.task, options.pooling)
    spec = described.spec
    refuse_fp16_overflow(described.family.overflows_fp16, spec.family, options)
    limits = encode_limits(options, spec, source.checkpoint, source.settings, source.tokenizer)
    packed_ops = target.packed_ops(options.torch_dtype, limits.max_length)
    built = build_encoder(source.checkpoint, described, options.torch_dtype, packed_ops)
    output = describe_output(spec, source.checkpoint, source.settings)
    signature = encode_signature(
        limits,
        encode_output(source.task, spec.output_size),
        device=target.device,
        token_types=spec.embeddings.token_types > 0,
        prompt_lengths=isinstance(output, EmbedInfo) and not output.include_prompt,
    )
    module = built.module
    if options.quantize is not None:
        inputs = random_inputs(spec.embeddings.vocab_size, limits.max_length, source.tokenizer)
        module = quantize(module, partial(run_encoder, module, inputs))
    graph = GraphSpec(
        module=module,
        signature=signature,
        buckets=limits.buckets(target.device),
        largest=limits.max_tokens,
        content=graph_content(spec, target, options),
    )
    return TaskModel(
        family=spec.family,
        parameters=count_parameters(built.module),
        vocab_size=spec.embeddings.vocab_size,
        hidden_size=spec.hidden_size,
        # A table of one row holds type 0 only, although the tokenizer may return others.
        token_types=spec.embeddings.token_types > 1,
        limits=limits,
        graphs=(graph,),
        output=output,
        dropped=built.dropped,
    )


def describe_output(
    spec: ModelSpec, checkpoint: Checkpoint, settings: SentenceSettings
) -> EmbedInfo | ClassifyInfo | HiddenInfo:
    """Return how the runtime turns graph outputs into embeddings, scores or hidden states."""
    if isinstance(spec.head, EmbedderSpec):
        return EmbedInfo(
            size=spec.output_size,
            pooling=spec.head.pooling,
            include_prompt=spec.head.include_prompt,
            normalize=spec.head.normalize,
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt_name,
            similarity=settings.similarity,
        )
    if isinstance(spec.head, ClassifierSpec):
        names: dict[Any, str] = dict(checkpoint.config.id2label or {})
        labels = spec.head.labels
        return ClassifyInfo(
            labels=tuple(str(names.get(index, f"LABEL_{index}")) for index in range(labels)),
            activation=_pipeline_activation(checkpoint.config.problem_type, labels),
            score_activation=score_activation(checkpoint, labels),
        )
    return HiddenInfo(size=spec.output_size)


def _pipeline_activation(problem_type: str | None, labels: int) -> Literal["softmax", "sigmoid", "identity"]:
    """Return the activation that transformers' ``TextClassificationPipeline`` applies."""
    if problem_type == "regression":
        return "identity"
    if problem_type == "multi_label_classification" or labels == 1:
        return "sigmoid"
    return "softmax"


def _default_batch_tokens(model: TaskModel, target: Target) -> int:
    return model.graphs[0].buckets.top if target.device == "cuda" else BATCH_TOKENS


ENCODE = Task(
    manifest=EncodeManifest,
    read_tokenizer=_read_tokenizer,
    build=_build,
    check_parity=check_parity,
    run_example=run_encoder_example,
    open_profiled=opened_encode,
    default_batch_tokens=_default_batch_tokens,
)
