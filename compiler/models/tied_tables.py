"""The token tables of an encoder-decoder checkpoint: which it stores, and which are copies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from precast.compiler.families.family import UntiedWeights

# In HF's names.
_ENCODER, _DECODER = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
_HEAD, _SHARED = "lm_head.weight", "shared.weight"


def with_tables(source: Mapping[str, Tensor], bias: str | None) -> tuple[dict[str, Tensor], UntiedWeights]:
    """Return ``source`` with each token table under the name that it is read by, and what the decoder has
    to itself.

    Checkpoints differ in which of several tied tables they store, and in whether they store the copies. One
    that is missing is the shared one, else another, as HF takes it.

    Args:
        source: weights by HF's names, without prefix.
        bias: name of the bias of the logits, None if the family has none.
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


def unread_weights(dropped: tuple[str, ...], source: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return ``dropped`` without copies of token tables that are read under another name."""
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
