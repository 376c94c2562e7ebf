"""Builds tokenizers of the tokenizers library that segment text like a SentencePiece model."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

from precast.compiler.frontend.tokenizers.sentencepiece_model import NORMAL, UNKNOWN, SentencePieceModel

MARK = "\uffff"
"""Prefix of pieces that match no text: this code point is a noncharacter in Unicode."""

_OTHER = "\ufffe"
"""Another noncharacter, which replaces the mark in texts that contain it."""
_SPACE = "▁"
_NAME = r"(?:(?!<<)(?m:.))*<<"
"""The rest of a language code as Marian reads it: anything up to the first ``<<``."""
_UNKNOWN_CODE = MARK + "<<"


def segmenter(
    model: SentencePieceModel, added: Sequence[AddedToken], codes: Collection[str] | None
) -> Tokenizer:
    """Build a tokenizer with the pieces of ``model``; its ids have no meaning.

    A run of unknown characters is one piece with the text unchanged (with ``bpe``: the unknown piece). A
    language code ``>>fra<<`` at the beginning is the piece ``code_piece(">>fra<<")``.

    Args:
        model: the SentencePiece model.
        added: tokens that are split off first.
        codes: known language codes with their brackets; an unknown code is one piece too. None if codes have
            no meaning.
    """
    tokenizer = Tokenizer(_bpe(model) if model.algorithm == "bpe" else _unigram(model, codes))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(model, codes))
    tokenizer.add_tokens(list(added))
    return tokenizer


def code_piece(code: str) -> str:
    """The piece of a language code such as ``>>fra<<``."""
    return MARK + code.removeprefix(">>")


def _unigram(model: SentencePieceModel, codes: Collection[str] | None) -> models.Unigram:
    # Pieces that never match must not have the lowest score, from which that of the unknown token is derived.
    table = [(piece.text, piece.score) if piece.kind == NORMAL else (MARK + piece.text, 0.0)
             for piece in model.pieces]  # fmt: skip
    unknown = next(index for index, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    if codes is not None:
        table += [(name, 0.0) for name in (_UNKNOWN_CODE, *map(code_piece, codes))]
    return models.Unigram(table, unk_id=unknown, byte_fallback=False)


def _bpe(model: SentencePieceModel) -> models.BPE:
    unknown = MARK + next(piece.text for piece in model.pieces if piece.kind == UNKNOWN)
    names = [piece.text if piece.kind == NORMAL else MARK + piece.text for piece in model.pieces]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges = []
    for piece in sorted(model.pieces, key=lambda piece: -piece.score):
        if piece.kind == NORMAL:
            halves = ((piece.text[:cut], piece.text[cut:]) for cut in range(1, len(piece.text)))
            merges += [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
    return models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True)


def _normalizers(model: SentencePieceModel, codes: Collection[str] | None) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = [normalizers.Replace(MARK, _OTHER)]
    if codes is not None:
        steps += _marks(codes)
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.removes_spaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if codes is not None:
        # SentencePiece receives only the text after the code.
        spaces = " *" if model.removes_spaces else ""
        prefix = _SPACE if model.adds_prefix else ""
        steps.append(normalizers.Replace(Regex(rf"\A{MARK}{_NAME}\K{spaces}(?=(?m:.))"), prefix))
    if model.adds_prefix:
        steps.append(normalizers.Replace(Regex(rf"\A(?!{MARK})(?=(?m:.))"), _SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return steps


def _marks(codes: Collection[str]) -> list[normalizers.Normalizer]:
    """Replace a code at the very beginning by a piece that matches nowhere else."""
    names = "|".join(re.escape(code.removeprefix(">>").removesuffix("<<")) for code in codes)
    known = [normalizers.Replace(Regex(rf"\A>>(?=(?:{names})<<)"), MARK)] if codes else []
    return [*known, normalizers.Replace(Regex(rf"\A>>{_NAME}"), _UNKNOWN_CODE)]
