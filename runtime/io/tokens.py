"""Checked token ids for a graph, truncated, with their token types; and vocabularies of pieces."""

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
"""Largest token type: a model that uses token types has at least two, for the texts of a pair."""


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
    """One tokenized input.

    Attributes:
        ids: int32 ``[n]``, n >= 1: checked token ids.
        types: Token types, integers ``[n]``; None if all are 0.
        truncated: Whether the input was truncated.
        prompt_length: Number of leading tokens that belong to a prompt.
    """

    ids: np.ndarray
    types: np.ndarray | None
    truncated: bool = False
    prompt_length: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TokenReader:
    """Makes ``Tokens`` of a caller's token ids, or of a tokenizer's encodings.

    Attributes:
        info: The manifest's description of the tokenizer.
        vocab_size: Token ids are below it.
        max_length: Most tokens of one input.
        pieces: The model's vocabulary, if its ids differ from the tokenizer's.
    """

    info: TokenizationInfo
    vocab_size: int
    max_length: int
    pieces: Pieces | None = None

    def from_ids(self, given: Sequence[np.ndarray], side: str | None) -> list[Tokens | InputError]:
        """Return the tokens of inputs given as token ids, or the error of an invalid one.

        All ids are checked in one pass, because numpy calls for each input would be slow compared to a graph
        of a millisecond.

        Args:
            given: Token ids, int64 ``[n]`` each, n >= 1.
            side: Side at which over-long inputs are truncated; None makes them errors.
        """
        sound = not given or self._flaw(np.concatenate(given), None) is None
        return [self._as_given(ids, side, sound) for ids in given]

    def from_encodings(
        self, encodings: Sequence[Encoding], around: Surroundings | None, prompt_length: int
    ) -> list[Tokens | InputError]:
        """Return the tokens of encoded texts, which the tokenizer has truncated, or the error of one.

        All ids are checked in one pass, as in ``from_ids``.

        Args:
            encodings: At least one encoding.
            around: Special tokens to add; None if the tokenizer has added them.
            prompt_length: Tokens of the prompt that every text begins with.
        """
        lists = [self._ids(encoding, around) for encoding in encodings]
        ids, types = _concatenated(lists), self._types(encodings, lists)
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
            # Only a text that fills the length can be truncated; reading ``overflowing`` is slow.
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
        """Return the ids of an encoding, at least one."""
        ids: list[int] = (
            encoding.ids if self.pieces is None else list(map(self.pieces.id_of, encoding.tokens))
        )
        if around is not None:
            ids = [*around.prefix, *ids, *around.suffix]
        return ids or [self.info.empty_id]

    def _types(self, encodings: Sequence[Encoding], lists: Sequence[list[int]]) -> np.ndarray | None:
        """Return the concatenated token types of all texts; None if all are 0."""
        if not self.info.token_types:
            return None
        given = [encoding.type_ids for encoding in encodings]
        joined = _concatenated(
            [
                types if len(types) == len(ids) else [0] * len(ids)
                for types, ids in zip(given, lists, strict=True)
            ]
        )
        return joined if joined.any() else None

    def _flaw(self, ids: np.ndarray, types: np.ndarray | None) -> InputError | None:
        """Return the error of invalid ids or types: graphs would read out of bounds, or end the process."""
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            return TokenIdError(
                f"token id {low if low < 0 else high} is outside the vocabulary, "
                f"expected 0 to {self.vocab_size - 1}"
            )
        if types is not None and (highest := int(types.max())) > MAX_TOKEN_TYPE:
            return TokenizationError(
                f"the tokenizer returned token type {highest}, expected at most {MAX_TOKEN_TYPE}"
            )
        return None

    def _too_long(self, length: int) -> InputTooLongError:
        return InputTooLongError(
            f"{length} tokens, the artifact takes {self.max_length}; pass truncate=True, "
            f"or compile with a larger --max-length"
        )


def _concatenated(lists: Sequence[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=sum(map(len, lists)))
