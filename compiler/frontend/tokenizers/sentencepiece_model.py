"""Reading SentencePiece's model file. Its own library tells pieces, but not how it normalizes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from precast.compiler.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The kinds of pieces."""

_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5
"""Fields of ModelProto."""


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """A model: its pieces, how it segments, and what it does to a text before."""

    pieces: tuple[Piece, ...]
    segments_by: Literal["unigram", "bpe"]
    charsmap: bytes
    """The compiled table of character replacements, empty for none."""
    adds_prefix: bool
    """Whether a space is put before every text."""
    removes_spaces: bool
    """Whether spaces at the ends are left out, and several become one."""


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a ``.spm`` or ``.model`` file.

    Raises:
        CheckpointError: it is no such file, or asks for what the tokenizers library cannot do.
    """
    try:
        fields = list(_fields(path.read_bytes()))
        pieces = tuple(_piece(_bytes(value)) for number, value in fields if number == _PIECES)
        trainer = _last(fields, _TRAINER)
        normalizer = _last(fields, _NORMALIZER)
        denormalizer = _last(fields, _DENORMALIZER)
        model = SentencePieceModel(
            pieces=pieces,
            segments_by="bpe" if trainer.get(3, 1) == 2 else "unigram",
            charsmap=_bytes(normalizer.get(2, b"")),
            adds_prefix=bool(normalizer.get(3, 1)),
            removes_spaces=bool(normalizer.get(4, 1)),
        )
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path.name} is no SentencePiece model: {error}") from error
    unusual = {
        "a segmentation other than unigram and bpe": trainer.get(3, 1) not in (1, 2),
        "white space as a suffix": bool(trainer.get(24, 0)),
        "unescaped white space": not normalizer.get(5, 1),
        "a denormalizer": bool(denormalizer.get(2, b"")),
        "user-defined pieces": any(piece.kind == USER_DEFINED for piece in pieces),
        "byte pieces": any(piece.kind == BYTE for piece in pieces),
    }
    for what, found in unusual.items():
        if found:
            raise CheckpointError(
                f"{path.name} uses {what}, which precast cannot convert; give the checkpoint a tokenizer.json"
            )
    if not pieces:
        raise CheckpointError(f"{path.name} is no SentencePiece model: it has no pieces")
    return model


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))
    kind = fields.get(3, NORMAL)
    if not isinstance(kind, int):
        raise ValueError("the kind of a piece is no number")
    return Piece(_bytes(fields.get(1, b"")).decode(), score, kind)


def _last(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    """The fields of an embedded message; a repeated one overrides."""
    found = [_bytes(value) for wanted, value in fields if wanted == number]
    return dict(_fields(found[-1])) if found else {}


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("expected bytes, found a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer message: number and content, in order."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place + length > len(data):
            raise ValueError("it ends too early")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, place
