"""A SentencePiece model as a tokenizer of the tokenizers library that gives the same pieces."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers

from precast.compiler.frontend.tokenizers.sentencepiece_model import NORMAL, UNKNOWN, SentencePieceModel

MARK = "\uffff"
"""Begins pieces that no text holds: Unicode keeps this code point from being a character."""

_OTHER = "\ufffe"
"""No character either: what a text that does hold the mark has in its place."""
_SPACE = "▁"
_NAME = r"(?:(?!<<)(?m:.))*<<"
"""The rest of a language code as Marian reads it: up to the first ``<<``, whatever stands between."""
_UNKNOWN_CODE = MARK + "<<"


def segmenter(
    model: SentencePieceModel, added: Sequence[AddedToken], codes: Collection[str] | None
) -> Tokenizer:
    """A tokenizer whose pieces are those of ``model``; its ids mean nothing.

    An unknown run of characters is one piece, its text as it stands (with ``bpe``: one unnamed piece). A
    language code ``>>fra<<`` at the beginning is the piece of ``code_piece``.

    Args:
        model: read from its file.
        added: tokens that are cut out of the text first.
        codes: known language codes with their brackets; an unknown one is one piece too. None where such
            a beginning means nothing.
    """
    tokenizer = Tokenizer(_bpe(model) if model.segments_by == "bpe" else _unigram(model, codes))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(model, codes))
    tokenizer.add_tokens(list(added))
    return tokenizer


def code_piece(code: str) -> str:
    """How the tokenizer names the language code ``>>fra<<``."""
    return MARK + code.removeprefix(">>")


def _unigram(model: SentencePieceModel, codes: Collection[str] | None) -> models.Unigram:
    # Scores of pieces that never match must not be the lowest: the unknown token's follows from that.
    table = [(piece.text, piece.score) if piece.kind == NORMAL else (MARK + piece.text, 0.0)
             for piece in model.pieces]  # fmt: skip
    unknown = next(n for n, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
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
        # SentencePiece sees what follows a code alone.
        spaces = " *" if model.removes_spaces else ""
        prefix = _SPACE if model.adds_prefix else ""
        steps.append(normalizers.Replace(Regex(rf"\A{MARK}{_NAME}\K{spaces}(?=(?m:.))"), prefix))
    if model.adds_prefix:
        steps.append(normalizers.Replace(Regex(rf"\A(?!{MARK})(?=(?m:.))"), _SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    return steps


def _marks(codes: Collection[str]) -> list[normalizers.Normalizer]:
    """A code at the very beginning becomes a piece that matches nowhere else."""
    names = "|".join(re.escape(code.removeprefix(">>").removesuffix("<<")) for code in codes)
    known = [normalizers.Replace(Regex(rf"\A>>(?=(?:{names})<<)"), MARK)] if codes else []
    return [*known, normalizers.Replace(Regex(rf"\A>>{_NAME}"), _UNKNOWN_CODE)]
