"""A checkpoint as a traceable module with its parameters filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from precast.compiler.checkpoint import Checkpoint, read_weights
from precast.compiler.errors import UnsupportedModelError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Family, Head, WeightNames
from precast.compiler.families.registry import family_of
from precast.compiler.model.encode import Encode
from precast.compiler.model.spec import Embedder, ModelSpec
from precast.compiler.sentence_transformers import is_cross_encoder, read_modules
from precast.compiler.weights import canonical, map_weights, with_tied
from precast.graphs.encode import Task


@dataclass(frozen=True)
class BuiltModel:
    """A module in fp32 with the checkpoint's weights."""

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


def build(
    checkpoint: Checkpoint, task: Task | Literal["auto"], pooling: tuple[str, ...] | None = None
) -> BuiltModel:
    """Read configuration and weights into a module.

    Args:
        checkpoint: opened.
        task: what the graph shall answer with.
        pooling: for ``embed``, modes that replace the checkpoint's own; ``mean`` where it has none.

    Raises:
        CompileError: any kind; see ``compiler.errors``.
    """
    chosen = choose_task(checkpoint) if task == "auto" else task
    family = family_of(checkpoint.config.model_type)
    reader = ConfigReader(checkpoint.config)
    backbone = family.backbone(reader)
    names: dict[str, tuple[str, ...]] = dict(family.weights(backbone))
    source = with_tied(canonical(read_weights(checkpoint.path), family.prefix), family.tied)
    head: Embedder | None = None
    classifier = None
    if chosen == "embed":
        head, extra = _embedder(checkpoint, pooling)
        source |= extra
        names |= {name: (name,) for name in extra}
    elif chosen != "hidden":
        found = _classification_head(family, reader, chosen)
        classifier = found.classifier
        names |= found.weights
    reader.finish()
    spec = ModelSpec(
        family.name, chosen, backbone.hidden_size, backbone.embeddings, backbone.encoder, head or classifier
    )
    return _filled(spec, names, source, family)


def _filled(spec: ModelSpec, names: WeightNames, source: dict[str, Tensor], family: Family) -> BuiltModel:
    module = Encode(spec).eval().requires_grad_(False)
    mapped = map_weights(module, names, source, family.dropped)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(mapped.parameters[name])
    return BuiltModel(spec, module, mapped.dropped)


def _embedder(checkpoint: Checkpoint, pooling: tuple[str, ...] | None) -> tuple[Embedder, dict[str, Tensor]]:
    modules = read_modules(checkpoint)
    if modules is None:
        return Embedder(pooling or ("mean",)), {}
    if pooling is None:
        return modules.embedder, modules.weights
    own = modules.embedder
    return Embedder(pooling, own.include_prompt, own.dense, own.normalize), modules.weights


def _classification_head(family: Family, reader: ConfigReader, task: Task) -> Head:
    make = family.token_head if task == "token-classify" else family.sequence_head
    if make is None:
        raise UnsupportedModelError(f"family {family.name} has no head for task {task!r}")
    return make(reader)
