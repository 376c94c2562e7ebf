"""Builds the traceable modules of a checkpoint and loads its weights into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from precast.compiler.errors import UnsupportedModelError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Family, Head, WeightNames
from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint, read_weights
from precast.compiler.frontend.sentence_transformers import read_modules
from precast.compiler.models.encode import Encode
from precast.compiler.models.packed_ops import OpsFactory
from precast.compiler.models.seq2seq import Seq2Seq
from precast.compiler.models.spec import ClassifierSpec, EmbedderSpec, ModelSpec, Seq2SeqSpec
from precast.compiler.models.tied_tables import unread_weights, with_tables
from precast.compiler.models.weights import canonical_names, map_weights, with_tied
from precast.graphs.encode import Task

Module = TypeVar("Module", bound=nn.Module)
Spec = TypeVar("Spec")


@dataclass(frozen=True)
class Description:
    """The description of an encoder from its configuration, before weights are read.

    Attributes:
        spec: specification of the model.
        family: family of the model.
        names: checkpoint weights that each parameter is made of.
    """

    spec: ModelSpec
    family: Family
    names: WeightNames


@dataclass(frozen=True)
class Built(Generic[Spec, Module]):
    """A module with the checkpoint's weights.

    Attributes:
        spec: specification of the module.
        module: module on the CPU, in evaluation mode.
        dropped: names of checkpoint weights that the task does not use.
    """

    spec: Spec
    module: Module
    dropped: tuple[str, ...]


def describe_model(checkpoint: Checkpoint, task: Task, pooling: tuple[str, ...] | None = None) -> Description:
    """Return the description of an encoder from its configuration.

    Args:
        checkpoint: Checkpoint to read.
        task: Task to compile for, which decides on the head.
        pooling: Pooling modes for the task ``embed``; default the checkpoint's, or ``mean`` if it has none.

    Raises:
        UnsupportedModelError: The family lacks a head for the task.
        UnsupportedConfigError: The configuration has a value that no module implements.
    """
    family = family_of(checkpoint.config.model_type)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    names: dict[str, tuple[str, ...]] = dict(family.weights(backbone))
    head: EmbedderSpec | ClassifierSpec | None = None
    if task == "embed":
        modules = read_modules(checkpoint)
        head = modules.embedder if modules else EmbedderSpec(("mean",))
        head = replace(head, pooling=pooling) if pooling else head
        names |= {name: (name,) for name in modules.weights} if modules else {}
    elif task != "hidden":
        classification = _classification_head(family, reader, task)
        head = classification.classifier
        names |= classification.weights
    reader.finish()
    parts = (backbone.hidden_size, backbone.embeddings, backbone.encoder)
    return Description(ModelSpec(family.name, task, *parts, head), family, names)


def build_encoder(
    checkpoint: Checkpoint, described: Description, dtype: torch.dtype, packed_ops: OpsFactory
) -> Built[ModelSpec, Encode]:
    """Build an encoder and load its weights.

    Args:
        checkpoint: Checkpoint to read weights from.
        described: The result of ``describe_model``.
        dtype: Dtype of the parameters; position tables keep fp32.
        packed_ops: Factory of the packed operators to trace.

    Raises:
        CheckpointError: The weights cannot be read.
        UnsetParameterError: A parameter has no weight.
        UnusedWeightError: A weight belongs to no parameter.
        WeightValueError: A weight has a wrong shape or non-finite values.
    """
    family, spec = described.family, described.spec
    source = with_tied(canonical_names(read_weights(checkpoint.path), family.prefix), family.tied)
    modules = read_modules(checkpoint) if spec.task == "embed" else None
    source |= modules.weights if modules else {}
    make = lambda: Encode(spec, packed_ops)  # noqa: E731
    module, dropped = _filled(make, described.names, source, family.dropped, dtype)
    return Built(spec, module, dropped)


def build_seq2seq(checkpoint: Checkpoint, dtype: torch.dtype) -> Built[Seq2SeqSpec, Seq2Seq]:
    """Build an encoder-decoder and load its weights.

    Args:
        checkpoint: Checkpoint to read.
        dtype: Dtype of the parameters; position tables keep fp32.

    Raises:
        UnsupportedModelError: The family has no decoder.
        UnsupportedConfigError: The configuration has a value that no module implements.
        CheckpointError, UnsetParameterError, UnusedWeightError, WeightValueError: As for ``build_encoder``.
    """
    family = family_of(checkpoint.config.model_type)
    generation = family.generation
    if generation is None:
        raise UnsupportedModelError(f"family {family.name} has no decoder")
    weights = canonical_names(read_weights(checkpoint.path), family.prefix)
    source, stored = with_tables(weights, generation.head_bias)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    decoder = generation.decoder(reader, stored)
    reader.finish()
    spec = Seq2SeqSpec(family.name, backbone.hidden_size, backbone.embeddings, backbone.encoder, decoder)
    names = {**family.weights(backbone), **generation.weights(decoder)}
    module, dropped = _filled(lambda: Seq2Seq(spec), names, source, generation.dropped, dtype)
    return Built(spec, module, unread_weights(dropped, source))


def _filled(
    make: Callable[[], Module],
    names: WeightNames,
    source: Mapping[str, Tensor],
    droppable: Iterable[str],
    dtype: torch.dtype,
) -> tuple[Module, tuple[str, ...]]:
    """Return a new module with parameters from ``source``, and the names of the unused source weights."""
    with torch.device("meta"):  # skips the initialization of parameters, which are replaced
        module = make().eval()
    mapped = map_weights(module, names, source, droppable)
    parameters = {name: tensor.to(dtype) for name, tensor in mapped.parameters.items()}
    module.load_state_dict(parameters, strict=False, assign=True)
    return module.requires_grad_(False), mapped.dropped


def _classification_head(family: Family, reader: ConfigReader, task: str) -> Head:
    make = family.token_head if task == "token-classify" else family.sequence_head
    if make is None:
        raise UnsupportedModelError(f"family {family.name} has no head for task {task!r}")
    return make(reader)
