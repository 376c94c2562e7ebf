"""Token ids that a graph may be given: checked, cut to length, with their token types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from tokenizers import Encoding

from precast.artifacts.errors import TokenizerFileError
from precast.artifacts.manifest import TokenizationInfo
from precast.graphs import strict_json
from precast.runtime.errors import InputError, InputTooLongError, TokenIdError, TokenizationError
from precast.runtime.io.languages import Surroundings

MAX_TOKEN_TYPE = 1
"""A model whose token types are read has two of them at least: those of a pair."""


@dataclass(frozen=True)
class Pieces:
    """The vocabulary of a model whose ids differ from those of its tokenizer.

    Attributes:
        ids: The model's id of each piece of the tokenizer.
        texts: The text of each of the model's ids; None if no token has that id.
        unknown_id: The model's id of the unknown token.
    """

    ids: dict[str, int]
    texts: tuple[str | None, ...]
    unknown_id: int

    def id_of(self, piece: str) -> int:
        """Return the model's id of a piece; that of the unknown token if the model lacks it."""
        return self.ids.get(piece, self.unknown_id)


def parse_pieces(text: str, unknown_id: int) -> Pieces:
    """Parse the file that ``DecodingInfo.pieces_file`` names.

    Args:
        text: A JSON object with ``ids`` (piece to id) and ``texts`` (text or null, by id).
        unknown_id: ``DecodingInfo.unknown_id``.

    Raises:
        TokenizerFileError: The text is not such an object.
    """
    try:
        data = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerFileError(
            f"the file of pieces is not JSON ({error}); compile the artifact again"
        ) from error
    if not isinstance(data, dict) or set(data) != {"ids", "texts"}:
        raise TokenizerFileError("expected pieces with ids and texts; compile the artifact again")
    ids, texts = data["ids"], data["texts"]
    if not isinstance(ids, dict) or not all(type(number) is int and number >= 0 for number in ids.values()):
        raise TokenizerFileError("the ids of pieces must be numbers from 0 up; compile the artifact again")
    if not isinstance(texts, list) or not all(item is None or type(item) is str for item in texts):
        raise TokenizerFileError("the texts of pieces must be strings or null; compile the artifact again")
    return Pieces(ids, tuple(texts), unknown_id)


@dataclass(frozen=True)
class Tokens:
    """One input, ready for a graph: checked ids, token types or None, and whether it was cut."""

    ids: np.ndarray
    """int32 ``[n]``, n >= 1."""
    types: np.ndarray | None
    """Integers ``[n]``; None where all are 0."""
    truncated: bool = False
    prompt_length: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TokenReader:
    """Makes ``Tokens`` of token ids from a caller, or of encodings from a tokenizer.

    Attributes:
        info: of the tokenizer, from the manifest.
        vocab_size: ids must be below it.
        max_length: tokens of one input.
        pieces: the model's ids, where they are not the tokenizer's.
    """

    info: TokenizationInfo
    vocab_size: int
    max_length: int
    pieces: Pieces | None = None

    def from_ids(self, given: Sequence[np.ndarray], side: str | None) -> list[Tokens | InputError]:
        """Ids of some inputs as they are given, or the error that one alone has.

        All are checked in one pass: numpy's calls for each input would be slow beside a graph of a
            millisecond.

        Args:
            given: int64 ``[n]`` each, n >= 1.
            side: where over-long ones are cut; None refuses them.
        """
        sound = not given or self._flaw(np.concatenate(given), None) is None
        return [self._as_given(ids, side, sound) for ids in given]

    def from_encodings(
        self, encodings: Sequence[Encoding], around: Surroundings | None, prompt_length: int
    ) -> list[Tokens | InputError]:
        """What the tokenizer made of some texts, already cut where they may be.

        All ids are checked in one pass, as in ``from_ids``.

        Args:
            encodings: at least one.
            around: special tokens that the tokenizer did not add, or None.
            prompt_length: tokens of the prompt that every text begins with.
        """
        lists = [self._ids(encoding, around) for encoding in encodings]
        ids, types = _side_by_side(lists), self._types(encodings, lists)
        sound = self._flaw(ids, types) is None
        narrow = ids.astype(np.int32) if sound else ids
        outcomes: list[Tokens | InputError] = []
        end = 0
        for encoding, of_text in zip(encodings, lists, strict=True):
            start, end = end, end + len(of_text)
            own_types = None if types is None else types[start:end]
            error = None if sound else self._flaw(ids[start:end], own_types)
            if error is None and len(of_text) > self.max_length:
                error = self._too_long(len(of_text))
            own = narrow[start:end].astype(np.int32, copy=False)
            # Only what fills the length was cut; to ask costs as much as to read the ids.
            cut = len(of_text) == self.max_length and bool(encoding.overflowing)
            outcomes.append(error or Tokens(own, own_types, cut, prompt_length))
        return outcomes

    def _as_given(self, ids: np.ndarray, side: str | None, sound: bool) -> Tokens | InputError:
        if not sound and (error := self._flaw(ids, None)):
            return error
        if ids.size <= self.max_length:
            return Tokens(ids.astype(np.int32), None)
        if side is None:
            return self._too_long(ids.size)
        cut = ids[: self.max_length] if side == "right" else ids[-self.max_length :]
        return Tokens(cut.astype(np.int32), None, truncated=True)

    def _ids(self, encoding: Encoding, around: Surroundings | None) -> list[int]:
        """At least one."""
        found: list[int] = (
            encoding.ids if self.pieces is None else list(map(self.pieces.id_of, encoding.tokens))
        )
        if around is not None:
            found = [*around.prefix, *found, *around.suffix]
        return found or [self.info.empty_id]

    def _types(self, encodings: Sequence[Encoding], lists: Sequence[list[int]]) -> np.ndarray | None:
        """Token types of all texts side by side; None where every one is 0."""
        if not self.info.token_types:
            return None
        given = [encoding.type_ids for encoding in encodings]
        types = _side_by_side(
            [
                found if len(found) == len(ids) else [0] * len(ids)
                for found, ids in zip(given, lists, strict=True)
            ]
        )
        return types if types.any() else None

    def _flaw(self, ids: np.ndarray, types: np.ndarray | None) -> InputError | None:
        """An id outside the vocabulary would read foreign memory or end the process."""
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            return TokenIdError(
                f"token id {low if low < 0 else high} is outside the vocabulary, "
                f"expected 0 to {self.vocab_size - 1}"
            )
        if types is not None and (highest := int(types.max())) > MAX_TOKEN_TYPE:
            return TokenizationError(
                f"the tokenizer returned token type {highest}, at most {MAX_TOKEN_TYPE} is known"
            )
        return None

    def _too_long(self, length: int) -> InputTooLongError:
        return InputTooLongError(
            f"{length} tokens, the artifact takes {self.max_length}; pass truncate=True, "
            f"or compile with a larger --max-length"
        )


def _side_by_side(lists: Sequence[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=sum(map(len, lists)))
