"""Describes how a fast tokenizer decodes ids to text."""

from __future__ import annotations

import json
from typing import Any, Literal

from precast.artifacts.tokenization import DecodingInfo
from precast.compiler.errors import CheckpointError

_REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_FALLBACK = [_REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
_FIRST_SPACE = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def describe_decoding(tokenizer: Any) -> DecodingInfo:
    """Describe ``decode`` of one of transformers' fast tokenizers.

    Args:
        tokenizer: with a ``backend_tokenizer``.

    Raises:
        CheckpointError: precast cannot run its decoder token by token.
    """
    backend = tokenizer.backend_tokenizer
    joins, drops_prefix = _joins(json.loads(backend.to_str())["decoder"])
    added = backend.get_added_tokens_decoder()
    return DecodingInfo(
        joins=joins,
        drops_prefix=drops_prefix,
        strips=False,
        cleans_up=_cleans_up(tokenizer),
        skipped_ids=tuple(sorted(number for number, token in added.items() if token.special)),
        pieces_file=None,
        unknown_id=None,
    )


def _joins(decoder: Any) -> tuple[Literal["metaspace", "byte_level", "byte_fallback"], bool]:
    kind = decoder["type"] if decoder else None
    if kind == "Metaspace" and decoder["replacement"] == "▁":
        return "metaspace", decoder["prepend_scheme"] != "never"
    if kind == "ByteLevel":
        return "byte_level", False
    if kind == "Sequence" and decoder["decoders"] == _FALLBACK:
        return "byte_fallback", False
    if kind == "Sequence" and decoder["decoders"] == [*_FALLBACK, _FIRST_SPACE]:
        return "byte_fallback", True
    raise CheckpointError(
        f"the tokenizer's decoder is {json.dumps(decoder)[:200]}; supported are Metaspace, ByteLevel "
        f"and ByteFallback"
    )


def _cleans_up(tokenizer: Any) -> bool:
    """Whether spaces are cleaned up; for BPE, transformers requires a second option."""
    bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    forced = tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return bool(tokenizer.clean_up_tokenization_spaces and (forced or not bpe))
