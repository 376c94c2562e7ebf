"""Decodes token ids to text, whole or token by token, exactly as the checkpoint's own tokenizer does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from precast.artifacts.errors import TokenizerFileError
from precast.artifacts.tokenization import DecodingInfo
from precast.runtime.io.text_steps import (
    ByteFallback,
    Bytes,
    Metaspace,
    Plain,
    Replacement,
    Step,
    Strip,
    WithoutFirstSpace,
)
from precast.runtime.io.tokenization import parse_tokenizer
from precast.runtime.io.tokens import Pieces

_CLEANED = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
            (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip
"""Replacements of transformers' ``clean_up_tokenization_spaces``, in order."""


class Detokenizer:
    """Decodes token ids to text, without special tokens. Safe to use from many threads.

    Args:
        serialized: Content of ``tokenizer.json``.
        info: The manifest's description of the decoding.
        pieces: Content of ``info.pieces_file``; None if it names no file.

    Raises:
        TokenizerFileError: The tokenizer cannot be read, or the pieces are missing.
    """

    def __init__(self, serialized: str, info: DecodingInfo, pieces: Pieces | None = None) -> None:
        if (info.pieces_file is None) is not (pieces is None):
            raise TokenizerFileError(
                f"expected pieces from {info.pieces_file}, found {'some' if pieces else 'none'}; "
                f"compile the artifact again"
            )
        self._info = info
        self._skipped = frozenset(info.skipped_ids)
        self._piece_of = _texts(pieces) if pieces is not None else parse_tokenizer(serialized).id_to_token

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``.

        Args:
            ids: Token ids of at least 0; unknown ones have no text.
        """
        stream = self.stream()
        return "".join([stream.put(int(token)) for token in ids]) + stream.end()

    def stream(self) -> TextStream:
        """Return a decoder for one sequence, token by token."""
        return TextStream(self._text_of, _steps(self._info))

    def _text_of(self, token: int) -> str | None:
        return None if token in self._skipped else self._piece_of(token)


class TextStream:
    """Decodes one sequence incrementally. Used by one thread.

    The joined return values of ``put`` and ``end`` equal ``Detokenizer.decode`` of all tokens.
    """

    def __init__(self, text_of: Callable[[int], str | None], steps: tuple[Step, ...]) -> None:
        self._text_of = text_of
        self._steps = steps

    def put(self, token: int) -> str:
        """Add a token.

        Returns:
            The text that no later token can change; it ends at a character boundary.
        """
        text = self._text_of(token)
        if text is None:
            return ""
        for step in self._steps:
            text = step.put(text)
            if not text:
                break
        return text

    def end(self) -> str:
        """Return the rest of the text. ``put`` must not be called afterwards."""
        text = ""
        for step in self._steps:
            text = (step.put(text) if text else "") + step.end()
        return text


def _texts(pieces: Pieces) -> Callable[[int], str | None]:
    texts = pieces.texts
    return lambda token: texts[token] if 0 <= token < len(texts) else None


def _steps(info: DecodingInfo) -> tuple[Step, ...]:
    """Return new decoding steps, which hold the state of one sequence."""
    steps = [*_joining(info)]
    if info.strips:
        steps.append(Strip())
    if info.cleans_up:
        steps.extend(Replacement(old, new) for old, new in _CLEANED)
    return tuple(steps)


def _joining(info: DecodingInfo) -> list[Step]:
    if info.joins == "metaspace":
        return [Metaspace(info.drops_prefix)]
    if info.joins == "byte_level":
        return [Bytes("replace")]
    if info.joins == "valid_bytes":
        return [Bytes("ignore")]
    if info.joins == "byte_fallback":
        return [ByteFallback(), *([WithoutFirstSpace()] if info.drops_prefix else [])]
    return [Plain()]
