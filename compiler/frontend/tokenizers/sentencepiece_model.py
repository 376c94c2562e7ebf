"""Reads SentencePiece's model files, including the normalization, which its API does not expose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece import sentencepiece_model_pb2

from precast.compiler.errors import CheckpointError

_PROTO: Any = sentencepiece_model_pb2  # generated code, whose classes type checkers do not see
_TYPES = _PROTO.ModelProto.SentencePiece

NORMAL: int = _TYPES.NORMAL
UNKNOWN: int = _TYPES.UNKNOWN
CONTROL: int = _TYPES.CONTROL


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its index is its id."""

    text: str
    score: float
    kind: int
    """``NORMAL``, ``UNKNOWN``, ``CONTROL``, or another type of SentencePiece."""


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model.

    Attributes:
        pieces: the vocabulary.
        algorithm: of the segmentation.
        charsmap: the compiled table of character replacements, empty for none.
        adds_prefix: whether a space is prepended to every text.
        removes_spaces: whether spaces at both ends are removed and repeated ones collapsed.
    """

    pieces: tuple[Piece, ...]
    algorithm: Literal["unigram", "bpe"]
    charsmap: bytes
    adds_prefix: bool
    removes_spaces: bool


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a ``.spm`` or ``.model`` file.

    Raises:
        CheckpointError: the file is not a SentencePiece model, or uses a feature that the tokenizers library
            lacks.
    """
    try:
        proto = _PROTO.ModelProto.FromString(path.read_bytes())
        pieces = tuple(Piece(entry.piece, entry.score, entry.type) for entry in proto.pieces)
    except (OSError, ValueError, DecodeError) as error:
        raise CheckpointError(f"{path.name} is not a SentencePiece model: {error}") from error
    if not pieces:
        raise CheckpointError(f"{path.name} is not a SentencePiece model: it has no pieces")
    trainer, normalizer, kinds = proto.trainer_spec, proto.normalizer_spec, {piece.kind for piece in pieces}
    unsupported = {
        "a segmentation other than unigram and bpe": trainer.model_type not in (trainer.UNIGRAM, trainer.BPE),
        "white space as a suffix": trainer.treat_whitespace_as_suffix,
        "unescaped white space": not normalizer.escape_whitespaces,
        "a denormalizer": bool(proto.denormalizer_spec.precompiled_charsmap),
        "user-defined pieces": _TYPES.USER_DEFINED in kinds,
        "byte pieces": _TYPES.BYTE in kinds,
    }
    for feature, used in unsupported.items():
        if used:
            raise CheckpointError(
                f"{path.name} uses {feature}, which precast cannot convert; "
                f"add a tokenizer.json to the checkpoint"
            )
    return SentencePieceModel(
        pieces=pieces,
        algorithm="bpe" if trainer.model_type == trainer.BPE else "unigram",
        charsmap=normalizer.precompiled_charsmap,
        adds_prefix=normalizer.add_dummy_prefix,
        removes_spaces=normalizer.remove_extra_whitespaces,
    )
