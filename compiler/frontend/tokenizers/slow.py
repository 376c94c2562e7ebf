"""Converts the tokenizers that transformers runs with SentencePiece: Marian, M2M100 and PLBart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import M2M100Tokenizer, MarianTokenizer, PLBartTokenizer

from precast.artifacts.tokenization import DecodingInfo
from precast.compiler.errors import CheckpointError
from precast.compiler.frontend.checkpoint import Checkpoint
from precast.compiler.frontend.tokenizers.from_sentencepiece import code_piece, segmenter
from precast.compiler.frontend.tokenizers.sentencepiece_model import (
    CONTROL,
    NORMAL,
    SentencePieceModel,
    read_sentencepiece_model,
)

PIECES_FILE = "pieces.json"

_SPACE = "▁"


@dataclass(frozen=True)
class Converted:
    """A converted tokenizer: ``tokenizer.json``, the content of ``pieces.json`` or None, and its decoding."""

    serialized: str
    pieces: str | None
    decoding: DecodingInfo


def is_sentencepiece(tokenizer: Any) -> bool:
    """Whether ``convert`` supports the class of this tokenizer of transformers."""
    return isinstance(tokenizer, MarianTokenizer | M2M100Tokenizer | PLBartTokenizer)


def convert(tokenizer: Any, checkpoint: Checkpoint) -> Converted:
    """Convert a tokenizer to one of the tokenizers library for segmentation, and a table of the pieces' ids.

    The model's ids are not SentencePiece's: transformers looks up every piece by its text, including unknown
    runs of characters. A ``tokenizer.json`` cannot express that, hence the second file.

    Args:
        tokenizer: of transformers, for which ``is_sentencepiece`` is true.
        checkpoint: from which it was loaded.

    Raises:
        CheckpointError: its SentencePiece model or its vocabularies cannot be converted.
    """
    if getattr(tokenizer, "separate_vocabs", False):
        raise CheckpointError(
            "the tokenizer has separate_vocabs; precast supports Marian models with a shared vocabulary"
        )
    marian = isinstance(tokenizer, MarianTokenizer)
    name = tokenizer.spm_files[0] if marian else tokenizer.vocab_files_names.get("spm_file")
    model = read_sentencepiece_model(checkpoint.path / (name or tokenizer.vocab_files_names["vocab_file"]))
    codes = tuple(tokenizer.supported_language_codes) if marian else None
    if marian and model.algorithm == "bpe":
        raise CheckpointError("the Marian tokenizer's SentencePiece model is bpe; only unigram is supported")
    built = segmenter(model, _added(tokenizer), codes)
    suffix = tokenizer.convert_ids_to_tokens(tokenizer.build_inputs_with_special_tokens([]))
    built.post_processor = TemplateProcessing(
        # Ids here are not used: the runtime looks up tokens by their text.
        single=["$A", *suffix], pair=["$A", "$B", *suffix], special_tokens=[(token, 0) for token in {*suffix}]
    )  # fmt: skip
    pieces = {"ids": _ids(tokenizer, model, codes), "texts": _texts(tokenizer, model)}
    return Converted(built.to_str(), json.dumps(pieces, ensure_ascii=False), _decoding(tokenizer))


def _added(tokenizer: Any) -> list[AddedToken]:
    """The tokens that transformers splits off before it calls SentencePiece."""
    known = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    return [
        AddedToken(
            text,
            special=True,
            normalized=False,
            lstrip=known[text].lstrip if text in known else False,
            rstrip=known[text].rstrip if text in known else False,
            single_word=known[text].single_word if text in known else False,
        )
        for text in sorted(tokenizer.tokens_trie._tokens)
        if text in known or text in tokenizer.all_special_tokens
    ]


def _ids(tokenizer: Any, model: SentencePieceModel, codes: tuple[str, ...] | None) -> dict[str, int]:
    normal = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    names = sorted(normal | {*tokenizer.get_vocab()} | {token.content for token in _added(tokenizer)})
    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in names}
    return ids | {code_piece(code): ids[code] for code in codes or ()}


def _texts(tokenizer: Any, model: SentencePieceModel) -> list[str | None]:
    kinds = {piece.text: piece.kind for piece in model.pieces}
    # M2M100's languages are not in its vocabulary.
    languages = getattr(tokenizer, "lang_token_to_id", {})
    size = 1 + max([*tokenizer.get_vocab().values(), *languages.values()])
    return [_text(tokenizer, _name(tokenizer, number), kinds) for number in range(size)]


def _name(tokenizer: Any, number: int) -> str | None:
    try:
        return str(tokenizer.convert_ids_to_tokens(number))
    except IndexError:  # SentencePiece has no such piece
        return None


def _text(tokenizer: Any, name: str | None, kinds: dict[str, int]) -> str | None:
    """The text of a piece within a longer text."""
    if name is None:
        return None
    if isinstance(tokenizer, PLBartTokenizer):
        return name.replace(_SPACE, " ")
    if kinds.get(name) == CONTROL:
        return ""
    # M2M100 leaves a piece unchanged that SentencePiece does not know.
    known = isinstance(tokenizer, MarianTokenizer) or name in kinds
    return name.replace(_SPACE, " ") if known else name


def _decoding(tokenizer: Any) -> DecodingInfo:
    return DecodingInfo(
        joins="plain",
        drops_prefix=False,
        strips=True,
        cleans_up=bool(tokenizer.clean_up_tokenization_spaces),
        skipped_ids=tuple(sorted(tokenizer.all_special_ids)),
        pieces_file=PIECES_FILE,
        unknown_id=int(tokenizer.unk_token_id),
    )
