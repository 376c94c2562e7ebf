"""Resolves the token tables of an encoder-decoder checkpoint, several of which may be tied."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from precast.compiler.families.family import UntiedWeights

# In HF's names.
_ENCODER, _DECODER = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
_HEAD, _SHARED = "lm_head.weight", "shared.weight"


def with_tables(source: Mapping[str, Tensor], bias: str | None) -> tuple[dict[str, Tensor], UntiedWeights]:
    """Resolve tied token tables.

    Checkpoints differ in which of several tied tables they store, and in whether they store copies. A missing
    table is replaced as in HF: by the shared table, or else by another one.

    Args:
        source: Weights by HF's names, without prefix.
        bias: Name of the bias of the logits; None if the family has none.

    Returns:
        ``source`` with each token table under the name that the model reads, and the tables of the decoder
        that are not tied.
    """
    encoder = _first(source, _ENCODER, _SHARED, _DECODER, _HEAD)
    tokens = _first(source, _DECODER, _SHARED, _ENCODER, _HEAD)
    head = _first(source, _HEAD, _SHARED, _DECODER, _ENCODER)
    has_bias = bias is not None and bias in source
    untied = UntiedWeights(tokens=not _same(tokens, encoder), head=not _same(head, tokens), bias=has_bias)
    tables = {
        _ENCODER: encoder,
        _DECODER: tokens if untied.tokens else None,
        _HEAD: head if untied.head else None,
    }
    if bias is not None and has_bias:
        tables[bias] = source[bias].flatten()
    return {**source, **{name: tensor for name, tensor in tables.items() if tensor is not None}}, untied


def unread_weights(dropped: tuple[str, ...], source: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return ``dropped`` without copies of token tables that the model reads under another name."""
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


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    comparable = left.shape == right.shape and left.dtype == right.dtype
    return left is right or (comparable and torch.equal(left, right))
