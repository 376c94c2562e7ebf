"""The second file of a tokenizer whose ids are not the model's."""

from __future__ import annotations

from dataclasses import dataclass

from precast.artifacts.errors import TokenizerFileError
from precast.graphs import strict_json


@dataclass(frozen=True)
class Pieces:
    """The model's ids of a tokenizer's pieces, and the text of each id."""

    ids: dict[str, int]
    texts: tuple[str | None, ...]
    """By id; None where there is no such token."""
    unknown_id: int

    def id_of(self, piece: str) -> int:
        """The model's id, that of the unknown token where the model lacks the piece."""
        return self.ids.get(piece, self.unknown_id)


def parse_pieces(text: str, unknown_id: int) -> Pieces:
    """Read the file that ``DecodingInfo.pieces_file`` names.

    Args:
        text: a JSON object with ``ids`` (piece to id) and ``texts`` (text or null, by id).
        unknown_id: from the manifest.

    Raises:
        TokenizerFileError: it is no such object.
    """
    try:
        data = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerFileError(f"the pieces are no JSON ({error}); compile the artifact again") from error
    if not isinstance(data, dict) or set(data) != {"ids", "texts"}:
        raise TokenizerFileError("expected pieces with ids and texts; compile the artifact again")
    ids, texts = data["ids"], data["texts"]
    if not isinstance(ids, dict) or not all(type(found) is int and found >= 0 for found in ids.values()):
        raise TokenizerFileError("the ids of pieces must be numbers from 0 up; compile the artifact again")
    if not isinstance(texts, list) or not all(found is None or type(found) is str for found in texts):
        raise TokenizerFileError("the texts of pieces must be strings or null; compile the artifact again")
    return Pieces(ids, tuple(texts), unknown_id)
