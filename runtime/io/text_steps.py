"""The steps from pieces to text. Each takes text and passes on what no later text can change.

The first step of a chain sees every piece, even one without text; those after it see text alone, never an
empty one.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal, Protocol

_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Step(Protocol):
    """A transformation of text that comes in parts."""

    def put(self, text: str) -> str:
        """Take a part of the text; returns the text that is certain now."""
        ...

    def end(self) -> str:
        """Give what was held back."""
        ...


class Plain:
    """Pieces that are text already."""

    def put(self, text: str) -> str:
        """The piece itself."""
        return text

    def end(self) -> str:
        """Nothing was held back."""
        return ""


class Metaspace:
    """``▁`` is a space, and in the first piece nothing where the tokenizer puts one before every text."""

    def __init__(self, drops_prefix: bool) -> None:
        self._at_start = drops_prefix

    def put(self, text: str) -> str:
        """The piece with spaces."""
        space = "" if self._at_start else " "
        self._at_start = False
        return text.replace(_SPACE, space)

    def end(self) -> str:
        """Nothing was held back."""
        return ""


class Bytes:
    """Each character of a piece is a byte; a character of the text may begin in one and end in another.

    Args:
        errors: what becomes of bytes that are no UTF-8: U+FFFD, or nothing.
    """

    def __init__(self, errors: Literal["replace", "ignore"]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def put(self, text: str) -> str:
        """The characters that are complete."""
        try:
            data = bytes([_BYTE_OF[character] for character in text])
        except KeyError:
            # An added token is text as it stands.
            data = text.encode()
        return self._decoder.decode(data)

    def end(self) -> str:
        """The replacement of a character that was never completed."""
        return self._decoder.decode(b"", final=True)


class ByteFallback:
    """``▁`` is a space. Neighbouring pieces ``<0x..>`` are one text if their bytes are, else U+FFFD each."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def put(self, text: str) -> str:
        """Nothing for a byte: the next one may make all before it invalid."""
        byte = _BYTE.fullmatch(text)
        if byte:
            self._bytes.append(int(byte[1], 16))
            return ""
        return self.end() + text.replace(_SPACE, " ")

    def end(self) -> str:
        """The text of the bytes so far."""
        data, self._bytes = self._bytes, bytearray()
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(data)


class WithoutFirstSpace:
    """All but a space at the very beginning."""

    def __init__(self) -> None:
        self._at_start = True

    def put(self, text: str) -> str:
        """The text, without its first space if nothing came before."""
        at_start, self._at_start = self._at_start, False
        return text.removeprefix(" ") if at_start else text

    def end(self) -> str:
        """Nothing was held back."""
        return ""


class Strip:
    """All but white space at both ends."""

    def __init__(self) -> None:
        self._at_start = True
        self._spaces: list[str] = []
        """White space that is the end of the text, unless something follows."""

    def put(self, text: str) -> str:
        """The text up to its last character that is no white space."""
        if self._at_start:
            text = text.lstrip()
        kept = text.rstrip()
        if not kept:
            if text:
                self._spaces.append(text)
            return ""
        before = "".join(self._spaces)
        self._at_start = False
        self._spaces = [text[len(kept) :]]
        return before + kept

    def end(self) -> str:
        """Removes white space at the end."""
        return ""


class Replacement:
    """``str.replace``: every ``old``, found from the left, becomes ``new``."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""
        """The longest end of the text so far that begins ``old``."""

    def put(self, text: str) -> str:
        """The text up to where ``old`` may have begun."""
        *whole, rest = (self._held + text).split(self._old)
        held = next(n for n in range(min(len(self._old) - 1, len(rest)), -1, -1) if self._ends(rest, n))
        self._held = rest[len(rest) - held :]
        return self._new.join([*whole, rest[: len(rest) - held]])

    def end(self) -> str:
        """What began like ``old`` and was not."""
        return self._held

    def _ends(self, text: str, length: int) -> bool:
        return text.endswith(self._old[:length])


def _byte_table() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the rest from U+0100 up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_table()
