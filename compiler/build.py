"""A checkpoint as a traceable module with its parameters filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from precast.compiler.checkpoint import Checkpoint, read_weights
from precast.compiler.errors import CompileError, UnsupportedModelError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Family, Head, Stored, WeightNames
from precast.compiler.families.registry import family_of
from precast.compiler.kernels.cpu.padded import PaddedOps
from precast.compiler.model.encode import Encode
from precast.compiler.model.ops import OpsFactory
from precast.compiler.model.seq2seq import Seq2Seq
from precast.compiler.model.spec import Classifier, Embedder, ModelSpec, Seq2SeqSpec
from precast.compiler.sentence_transformers import is_cross_encoder, read_modules
from precast.compiler.weights import canonical, map_weights, with_tied
from precast.graphs.encode import Device, Task

# The token tables of an encoder-decoder, in HF's names.
_ENCODER, _DECODER = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
_HEAD, _SHARED = "lm_head.weight", "shared.weight"


@dataclass(frozen=True)
class Description:
    """A model as its configuration describes it, before any weight was read."""

    spec: ModelSpec
    family: Family
    names: WeightNames


@dataclass(frozen=True)
class BuiltModel:
    """A module with the checkpoint's weights."""

    spec: ModelSpec
    module: Encode
    dropped: tuple[str, ...]
    """Source weights that this task does not read."""


def choose_task(checkpoint: Checkpoint) -> Task:
    """``--task auto``: what the checkpoint was made for."""
    architecture = (checkpoint.config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "rerank" if is_cross_encoder(checkpoint) else "classify"
    if architecture.endswith("ForTokenClassification"):
        return "token-classify"
    return "embed" if read_modules(checkpoint) is not None else "hidden"


def describe_model(
    checkpoint: Checkpoint, task: Task | Literal["auto"], pooling: tuple[str, ...] | None = None
) -> Description:
    """Read the configuration.

    Args:
        checkpoint: opened.
        task: what the graph shall answer with.
        pooling: for ``embed``, modes that replace the checkpoint's own; ``mean`` where it has none.

    Raises:
        UnsupportedModelError, UnsupportedConfigError: no module does what the configuration asks for.
    """
    chosen = choose_task(checkpoint) if task == "auto" else task
    family = family_of(checkpoint.config.model_type)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    names: dict[str, tuple[str, ...]] = dict(family.weights(backbone))
    head: Embedder | Classifier | None = None
    if chosen == "embed":
        modules = read_modules(checkpoint)
        head = modules.embedder if modules else Embedder(("mean",))
        head = replace(head, pooling=pooling) if pooling else head
        names |= {name: (name,) for name in modules.weights} if modules else {}
    elif chosen != "hidden":
        found = _classification_head(family, reader, chosen)
        head = found.classifier
        names |= found.weights
    reader.finish()
    parts = (backbone.hidden_size, backbone.embeddings, backbone.encoder)
    return Description(ModelSpec(family.name, chosen, *parts, head), family, names)


def fill(
    checkpoint: Checkpoint, described: Description, max_length: int, dtype: torch.dtype, device: Device
) -> BuiltModel:
    """Read the weights into a module; parameters get ``dtype``, tables that positions need stay as they are.

    Args:
        checkpoint: opened.
        described: from ``describe_model``.
        max_length: tokens of the longest input.
        dtype: of the parameters.
        device: that the module will be lowered for; its tensors are on the CPU all the same.

    Raises:
        CheckpointError: the weights cannot be read.
        UnsetParameterError, UnusedWeightError, WeightValueError: they are not the model's.
    """
    family, spec = described.family, described.spec
    source = with_tied(canonical(read_weights(checkpoint.path), family.prefix), family.tied)
    modules = read_modules(checkpoint) if spec.task == "embed" else None
    source |= modules.weights if modules else {}
    with torch.device("meta"):  # nothing is initialised only to be overwritten
        module = Encode(spec, operations(device, dtype, max_length)).eval()
    mapped = map_weights(module, described.names, source, family.dropped)
    parameters = {name: tensor.to(dtype) for name, tensor in mapped.parameters.items()}
    module.load_state_dict(parameters, strict=False, assign=True)
    return BuiltModel(spec, module.requires_grad_(False), mapped.dropped)


def operations(device: Device, dtype: torch.dtype, max_length: int) -> OpsFactory:
    """What the modules compute in the device's own way.

    Raises:
        CompileError: our kernels need triton, and it is not installed.
    """
    if device == "cpu":
        return partial(PaddedOps, dtype=dtype, max_length=max_length)
    if find_spec("triton") is None:
        raise CompileError("compiling for cuda needs triton: pip install triton, or a CUDA build of torch")
    from precast.compiler.kernels.cuda.ops import TritonOps

    return lambda layout, _: TritonOps(layout)


def _classification_head(family: Family, reader: ConfigReader, task: Task) -> Head:
    make = family.token_head if task == "token-classify" else family.sequence_head
    if make is None:
        raise UnsupportedModelError(f"family {family.name} has no head for task {task!r}")
    return make(reader)


@dataclass(frozen=True)
class BuiltSeq2Seq:
    """An encoder-decoder with the checkpoint's weights."""

    spec: Seq2SeqSpec
    module: Seq2Seq
    dropped: tuple[str, ...]


def build_seq2seq(checkpoint: Checkpoint, dtype: torch.dtype) -> BuiltSeq2Seq:
    """Read an encoder-decoder that generates; parameters get ``dtype``.

    Raises:
        UnsupportedModelError, UnsupportedConfigError: no module does what the configuration asks for.
        CheckpointError, UnsetParameterError, UnusedWeightError, WeightValueError: the weights are not
            the model's.
    """
    family = family_of(checkpoint.config.model_type)
    generation = family.generation
    if generation is None:
        raise UnsupportedModelError(f"family {family.name} has no decoder")
    weights = canonical(read_weights(checkpoint.path), family.prefix)
    source, stored = with_tables(weights, generation.head_bias)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    decoder = generation.decoder(reader, stored)
    reader.finish()
    spec = Seq2SeqSpec(family.name, backbone.hidden_size, backbone.embeddings, backbone.encoder, decoder)
    with torch.device("meta"):
        module = Seq2Seq(spec).eval()
    names = {**family.weights(backbone), **generation.weights(decoder)}
    mapped = map_weights(module, names, source, generation.dropped)
    parameters = {name: tensor.to(dtype) for name, tensor in mapped.parameters.items()}
    module.load_state_dict(parameters, strict=False, assign=True)
    return BuiltSeq2Seq(spec, module.requires_grad_(False), mapped.dropped)


def with_tables(source: Mapping[str, Tensor], bias: str | None) -> tuple[dict[str, Tensor], Stored]:
    """``source`` with each token table that is read under its own name, and what the decoder has to itself.

    Which of several tied tables a checkpoint stores differs, and so does whether it stores their copies. One
    that is missing is the shared one, else another, as HF takes it.
    """
    encoder = _first(source, _ENCODER, _SHARED, _DECODER, _HEAD)
    tokens = _first(source, _DECODER, _SHARED, _ENCODER, _HEAD)
    head = _first(source, _HEAD, _SHARED, _DECODER, _ENCODER)
    has_bias = bias is not None and bias in source
    stored = Stored(tokens=not _same(tokens, encoder), head=not _same(head, tokens), bias=has_bias)
    read = {
        _ENCODER: encoder,
        _DECODER: tokens if stored.tokens else None,
        _HEAD: head if stored.head else None,
    }
    if bias is not None and has_bias:
        read[bias] = source[bias].flatten()
    return {**source, **{name: tensor for name, tensor in read.items() if tensor is not None}}, stored


def _first(source: Mapping[str, Tensor], *names: str) -> Tensor | None:
    return next((source[name] for name in names if name in source), None)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    alike = one.shape == other.shape and one.dtype == other.dtype
    return one is other or (alike and torch.equal(one, other))
