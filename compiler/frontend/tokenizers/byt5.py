"""ByT5's tokenizer, in which each byte is a token."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers.convert_slow_tokenizer import bytes_to_unicode

from precast.artifacts.tokenization import DecodingInfo
from precast.compiler.frontend.tokenizers.slow import Converted


def convert_byt5(tokenizer: Any) -> Converted:
    """Build a tokenizer of the tokenizers library with the same ids as ``ByT5Tokenizer``.

    Args:
        tokenizer: transformers' ``ByT5Tokenizer``.
    """
    added = tokenizer.added_tokens_decoder
    vocabulary = {character: byte + tokenizer.offset for byte, character in bytes_to_unicode().items()}
    # Added tokens that are in the vocabulary keep their ids.
    vocabulary |= {token.content: number for number, token in added.items()}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_tokens([_unnormalized(token) for token in added.values()])
    eos = tokenizer.eos_token
    built.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    decoding = DecodingInfo(
        joins="valid_bytes",
        drops_prefix=False,
        strips=False,
        cleans_up=bool(tokenizer.clean_up_tokenization_spaces),
        skipped_ids=tuple(sorted(tokenizer.all_special_ids)),
        pieces_file=None,
        unknown_id=None,
    )
    return Converted(built.to_str(), None, decoding)


def _unnormalized(token: Any) -> AddedToken:
    return AddedToken(
        token.content,
        special=True,
        normalized=False,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
    )
