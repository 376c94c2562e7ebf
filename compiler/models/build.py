"""A checkpoint as a traceable module with its parameters filled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch

from precast.compiler.errors import CompileError, UnsupportedModelError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Family, Head, WeightNames
from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint, read_weights
from precast.compiler.frontend.sentence_transformers import is_cross_encoder, read_modules
from precast.compiler.kernels.avx512.packed import SequenceOps
from precast.compiler.kernels.torch.packed import PaddedOps
from precast.compiler.models.encode import Encode
from precast.compiler.models.packed_ops import OpsFactory
from precast.compiler.models.spec import ClassifierSpec, EmbedderSpec, ModelSpec
from precast.compiler.models.weights import canonical_names, map_weights, with_tied
from precast.compiler.options import Kernels
from precast.graphs.encode import Task


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


def detect_task(checkpoint: Checkpoint) -> Task:
    """``--task auto``: what the checkpoint was made for."""
    architecture = (checkpoint.config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "rerank" if is_cross_encoder(checkpoint) else "classify"
    if architecture.endswith("ForTokenClassification"):
        return "token-classify"
    if _generates(checkpoint, architecture):
        return "generate"
    return "embed" if read_modules(checkpoint) is not None else "hidden"


def _generates(checkpoint: Checkpoint, architecture: str) -> bool:
    """Whether HF has a class that generates for this checkpoint, and the checkpoint what that class needs."""
    family = family_of(checkpoint.config.model_type)
    if family.generation is None or read_modules(checkpoint) is not None:
        return False
    if architecture in family.generation.architectures:
        return True
    # Without a head, or saved by something that names no class: a tied head is made from the tokens.
    bare = not architecture or (architecture.endswith("Model") and not architecture.endswith("EncoderModel"))
    if not bare:
        return False
    return any(
        name.startswith("decoder.") for name in canonical_names(read_weights(checkpoint.path), family.prefix)
    )


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
    chosen = detect_task(checkpoint) if task == "auto" else task
    family = family_of(checkpoint.config.model_type)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    names: dict[str, tuple[str, ...]] = dict(family.weights(backbone))
    head: EmbedderSpec | ClassifierSpec | None = None
    if chosen == "embed":
        modules = read_modules(checkpoint)
        head = modules.embedder if modules else EmbedderSpec(("mean",))
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
    checkpoint: Checkpoint, described: Description, max_length: int, dtype: torch.dtype, kernels: Kernels
) -> BuiltModel:
    """Read the weights into a module; parameters get ``dtype``, tables that positions need stay as they are.

    Args:
        checkpoint: opened.
        described: from ``describe_model``.
        max_length: tokens of the longest input.
        dtype: of the parameters.
        kernels: that the module will be lowered with; its tensors are on the CPU all the same.

    Raises:
        CheckpointError: the weights cannot be read.
        UnsetParameterError, UnusedWeightError, WeightValueError: they are not the model's.
    """
    family, spec = described.family, described.spec
    source = with_tied(canonical_names(read_weights(checkpoint.path), family.prefix), family.tied)
    modules = read_modules(checkpoint) if spec.task == "embed" else None
    source |= modules.weights if modules else {}
    with torch.device("meta"):  # nothing is initialised only to be overwritten
        module = Encode(spec, operations(kernels, dtype, max_length)).eval()
    mapped = map_weights(module, described.names, source, family.dropped)
    parameters = {name: tensor.to(dtype) for name, tensor in mapped.parameters.items()}
    module.load_state_dict(parameters, strict=False, assign=True)
    return BuiltModel(spec, module.requires_grad_(False), mapped.dropped)


def operations(kernels: Kernels, dtype: torch.dtype, max_length: int) -> OpsFactory:
    """What the modules compute in the device's own way.

    Raises:
        CompileError: our kernels need triton, and it is not installed.
    """
    if kernels == "torch":
        return partial(PaddedOps, dtype=dtype, max_length=max_length)
    if kernels == "avx512":
        return lambda layout, _: SequenceOps(layout)
    if find_spec("triton") is None:
        raise CompileError("compiling for cuda needs triton: pip install triton, or a CUDA build of torch")
    from precast.compiler.kernels.triton.packed import TritonOps

    return lambda layout, _: TritonOps(layout)


def _classification_head(family: Family, reader: ConfigReader, task: Task) -> Head:
    make = family.token_head if task == "token-classify" else family.sequence_head
    if make is None:
        raise UnsupportedModelError(f"family {family.name} has no head for task {task!r}")
    return make(reader)
