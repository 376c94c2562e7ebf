"""The languages of translation models, and the special tokens of a source in one of them."""

from __future__ import annotations

from typing import Any

from transformers import (
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PLBartTokenizer,
)
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES
from transformers.models.plbart.tokenization_plbart import FAIRSEQ_LANGUAGE_CODES_MAP as PLBART_NAMES

from precast.artifacts.tokenization import LanguageInfo


def describe_languages(tokenizer: Any) -> LanguageInfo | None:
    """The languages that a source may have; None for a tokenizer to which all languages are the same.

    Changes the tokenizer's source language.

    Args:
        tokenizer: of transformers.
    """
    codes = _codes(tokenizer)
    if not codes:
        return None
    default = tokenizer.src_lang
    warmup = next(iter(codes))
    tokenizer.src_lang = warmup
    prefix = tuple(None if token == codes[warmup] else token for token in tokenizer.prefix_tokens)
    suffix = tuple(None if token == codes[warmup] else token for token in tokenizer.suffix_tokens)
    return LanguageInfo(codes=codes, default=default, prefix=prefix, suffix=suffix)


def _codes(tokenizer: Any) -> dict[str, int]:
    if isinstance(tokenizer, NllbTokenizer):
        return _nllb(tokenizer)
    if isinstance(tokenizer, MBartTokenizer | MBart50Tokenizer):
        return _known(tokenizer, list(tokenizer.lang_code_to_id))
    if isinstance(tokenizer, M2M100Tokenizer):
        return dict(tokenizer.lang_code_to_id)
    if isinstance(tokenizer, PLBartTokenizer):
        tokens = dict(tokenizer.lang_code_to_id)
        return tokens | {name: tokens[token] for name, token in PLBART_NAMES.items() if token in tokens}
    return {}


def _nllb(tokenizer: Any) -> dict[str, int]:
    """Its own languages and those that somebody has added."""
    added = [str(token) for token in tokenizer.extra_special_tokens]
    return _known(tokenizer, [*NLLB_CODES, *(token for token in added if "_" in token)])


def _known(tokenizer: Any, codes: list[str]) -> dict[str, int]:
    found = {code: tokenizer.convert_tokens_to_ids(code) for code in codes}
    return {
        code: int(number)
        for code, number in found.items()
        if number is not None and number != tokenizer.unk_token_id
    }
