"""What a compilation makes of a checkpoint: modules, signatures, limits, and what the manifest says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from torch import nn

from precast.artifacts.manifest import ClassifyInfo, EmbedInfo, GenerateInfo, HiddenInfo, ParityInfo
from precast.compiler.cache import GraphSource
from precast.compiler.errors import CompileError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.sentence_transformers import SentenceSettings
from precast.compiler.frontend.tokenizer import TokenizerFacts
from precast.compiler.models.build import describe_model, fill
from precast.compiler.options import CompileOptions
from precast.compiler.quantization.calibration import random_inputs, run_encoder
from precast.compiler.quantization.quantize import quantize
from precast.compiler.tasks.limits import resolve_limits
from precast.compiler.tasks.output_info import describe_output
from precast.compiler.verify.parity import check_parity
from precast.graphs.buckets import Buckets
from precast.graphs.encode import EncodeLimits, Task, encode_output, encode_signature
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import GenerateLimits


def graph_content(spec: Any, options: CompileOptions) -> dict[str, Any]:
    """What a graph with weights is made from, besides these, for the cache."""
    chosen = {"dtype": options.dtype, "kernels": options.kernels, "quantize": options.quantize}
    return {"spec": asdict(spec), **chosen}


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class GraphPlan:
    """A graph that shall be lowered."""

    source: GraphSource
    buckets: Buckets
    largest: int
    """The largest size of the buckets's axis; on CUDA the buckets may end before it."""

    @property
    def name(self) -> GraphName:
        return self.source.signature.graph


@dataclass(frozen=True)
class ModelPlan:
    """A model with its weights, and all that the steps need of it."""

    family: str
    task: Task
    module: nn.Module
    """All parameters, each once."""
    parameters: int
    vocab_size: int
    hidden_size: int
    token_types: bool
    """Whether the tokenizer's token types have a meaning for it."""
    limits: EncodeLimits | GenerateLimits
    graphs: tuple[GraphPlan, ...]
    output: EmbedInfo | ClassifyInfo | HiddenInfo | GenerateInfo
    dropped: tuple[str, ...]
    """Source weights that this task does not read."""
    check: Callable[[Any, Checkpoint], ParityInfo]
    """Compares what an engine answers with Hugging Face."""


def plan_encoder(
    options: CompileOptions,
    task: Task,
    checkpoint: Checkpoint,
    settings: SentenceSettings,
    tokenizer: TokenizerFacts | None,
) -> ModelPlan:
    """One graph, ``encode``.

    Raises:
        CompileError: its subclasses say why.
    """
    if options.max_target_length is not None:
        raise CompileError(f"max_target_length is for task generate, this is task {task}; leave it out")
    described = describe_model(checkpoint, task, options.pooling)
    spec = described.spec
    if options.dtype == "fp16" and described.family.overflows_fp16:
        raise CompileError(f"family {spec.family} overflows in fp16; choose bf16 or fp32")
    limits = resolve_limits(options, spec, checkpoint, settings, tokenizer)
    built = fill(checkpoint, described, limits.max_length, options.torch_dtype, options.kernels)
    output = describe_output(spec, checkpoint, settings)
    signature = encode_signature(
        limits,
        encode_output(task, spec.output_size),
        device=options.device_kind,
        token_types=spec.embeddings.token_types > 0,
        prompt_lengths=getattr(output, "include_prompt", True) is False,
    )
    module = built.module
    if options.quantize is not None:
        inputs = random_inputs(spec.embeddings.vocab_size, limits.max_length, tokenizer)
        module = quantize(module, partial(run_encoder, module, inputs))
    source = GraphSource(module, signature, graph_content(spec, options))
    return ModelPlan(
        family=spec.family,
        task=task,
        module=module,
        parameters=count_parameters(built.module),
        vocab_size=spec.embeddings.vocab_size,
        hidden_size=spec.hidden_size,
        # A table of one row has room for type 0 alone, whatever the tokenizer says.
        token_types=spec.embeddings.token_types > 1,
        limits=limits,
        graphs=(GraphPlan(source, limits.buckets(options.device_kind), limits.max_tokens),),
        output=output,
        dropped=built.dropped,
        check=partial(check_parity, spec=spec),
    )
