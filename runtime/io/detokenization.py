"""Token ids to text, whole or as they come, exactly as the checkpoint's own tokenizer does it."""

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
"""What transformers' clean-up replaces, one after the other."""


class Detokenizer:
    """Makes text of token ids and leaves special tokens out. Safe to use from many threads.

    Args:
        serialized: the content of ``tokenizer.json``.
        info: from the manifest.
        pieces: the content of ``info.pieces_file``, None where it names none.

    Raises:
        TokenizerFileError: the tokenizer cannot be read, or the pieces are missing.
    """

    def __init__(self, serialized: str, info: DecodingInfo, pieces: Pieces | None = None) -> None:
        if (info.pieces_file is None) is not (pieces is None):
            raise TokenizerFileError(
                f"expected the pieces of {info.pieces_file}, found {pieces is not None}; compile again"
            )
        self._info = info
        self._skipped = frozenset(info.skipped_ids)
        self._piece_of = _texts(pieces) if pieces is not None else parse_tokenizer(serialized).id_to_token

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``.

        Args:
            ids: tokens, each from 0 up; one that the tokenizer does not know has no text.
        """
        stream = self.stream()
        return "".join([stream.put(int(token)) for token in ids]) + stream.end()

    def stream(self) -> TextStream:
        """A new text, token by token."""
        return TextStream(self._text_of, _steps(self._info))

    def _text_of(self, token: int) -> str | None:
        return None if token in self._skipped else self._piece_of(token)


class TextStream:
    """The text of one sequence while its tokens come. For one thread.

    What ``put`` and ``end`` return makes, joined, what ``Detokenizer.decode`` makes of all the tokens.
    """

    def __init__(self, text_of: Callable[[int], str | None], steps: tuple[Step, ...]) -> None:
        self._text_of = text_of
        self._steps = steps

    def put(self, token: int) -> str:
        """Add a token.

        Returns:
            The text that has become certain: no later token changes it, and no character is cut.
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
        """The rest of the text. Nothing may be put afterwards."""
        text = ""
        for step in self._steps:
            text = (step.put(text) if text else "") + step.end()
        return text


def _texts(pieces: Pieces) -> Callable[[int], str | None]:
    texts = pieces.texts
    return lambda token: texts[token] if 0 <= token < len(texts) else None


def _steps(info: DecodingInfo) -> tuple[Step, ...]:
    """New steps, each with a state of its own."""
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
