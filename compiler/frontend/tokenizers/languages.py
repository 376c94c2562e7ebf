"""Describes the languages of translation models and the special tokens of a source language."""

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
    """Describe the source languages of a tokenizer; None if it does not distinguish languages.

    Changes the tokenizer's source language.

    Args:
        tokenizer: a tokenizer of transformers.
    """
    codes = _codes(tokenizer)
    if not codes:
        return None
    default = tokenizer.src_lang
    sample = next(iter(codes))  # the positions of the language token are the same for all languages
    tokenizer.src_lang = sample
    prefix = tuple(None if token == codes[sample] else token for token in tokenizer.prefix_tokens)
    suffix = tuple(None if token == codes[sample] else token for token in tokenizer.suffix_tokens)
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
    """NLLB's languages, and those that were added as special tokens."""
    added = [str(token) for token in tokenizer.extra_special_tokens]
    return _known(tokenizer, [*NLLB_CODES, *(token for token in added if "_" in token)])


def _known(tokenizer: Any, codes: list[str]) -> dict[str, int]:
    ids = {code: tokenizer.convert_tokens_to_ids(code) for code in codes}
    return {
        code: int(token_id)
        for code, token_id in ids.items()
        if token_id is not None and token_id != tokenizer.unk_token_id
    }
