"""An encoder-decoder checkpoint as modules with their parameters filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from precast.compiler.errors import UnsupportedModelError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import UntiedWeights
from precast.compiler.families.registry import family_of
from precast.compiler.frontend.checkpoint import Checkpoint, read_weights
from precast.compiler.models.seq2seq import Seq2Seq
from precast.compiler.models.spec import Seq2SeqSpec
from precast.compiler.models.weights import canonical_names, map_weights

# The token tables of an encoder-decoder, in HF's names.
_ENCODER, _DECODER = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
_HEAD, _SHARED = "lm_head.weight", "shared.weight"


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
    weights = canonical_names(read_weights(checkpoint.path), family.prefix)
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
    return BuiltSeq2Seq(spec, module.requires_grad_(False), _not_read(mapped.dropped, source))


def with_tables(source: Mapping[str, Tensor], bias: str | None) -> tuple[dict[str, Tensor], UntiedWeights]:
    """``source`` with each token table that is read under its own name, and what the decoder has to itself.

    Which of several tied tables a checkpoint stores differs, and so does whether it stores their copies. One
    that is missing is the shared one, else another, as HF takes it.
    """
    encoder = _first(source, _ENCODER, _SHARED, _DECODER, _HEAD)
    tokens = _first(source, _DECODER, _SHARED, _ENCODER, _HEAD)
    head = _first(source, _HEAD, _SHARED, _DECODER, _ENCODER)
    has_bias = bias is not None and bias in source
    stored = UntiedWeights(tokens=not _same(tokens, encoder), head=not _same(head, tokens), bias=has_bias)
    read = {
        _ENCODER: encoder,
        _DECODER: tokens if stored.tokens else None,
        _HEAD: head if stored.head else None,
    }
    if bias is not None and has_bias:
        read[bias] = source[bias].flatten()
    return {**source, **{name: tensor for name, tensor in read.items() if tensor is not None}}, stored


def _not_read(dropped: tuple[str, ...], source: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Without copies of token tables that are read under another name."""
    tables = [source[name] for name in (_ENCODER, _DECODER, _HEAD) if name in source]
    copies = {
        name
        for name in (_ENCODER, _DECODER, _HEAD, _SHARED)
        for table in tables
        if _same(source.get(name), table)
    }
    return tuple(name for name in dropped if name not in copies)


def _first(source: Mapping[str, Tensor], *names: str) -> Tensor | None:
    return next((source[name] for name in names if name in source), None)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    alike = one.shape == other.shape and one.dtype == other.dtype
    return one is other or (alike and torch.equal(one, other))
