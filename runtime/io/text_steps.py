"""Incremental decoding steps from pieces to text. Each passes on the text that later pieces cannot change.

The first step of a chain gets every piece, even an empty one; later steps get non-empty text only.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal, Protocol

_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Step(Protocol):
    """An incremental transformation of text."""

    def put(self, text: str) -> str:
        """Add a part of the text and return the output that later parts cannot change."""
        ...

    def end(self) -> str:
        """Return the output that was held back."""
        ...


class Plain:
    """Pieces that are plain text."""

    def put(self, text: str) -> str:
        """Return the piece."""
        return text

    def end(self) -> str:
        """Return an empty text."""
        return ""


class Metaspace:
    """Replaces ``▁`` by a space; in the first piece it is removed if the tokenizer adds one to every text."""

    def __init__(self, drops_prefix: bool) -> None:
        self._at_start = drops_prefix

    def put(self, text: str) -> str:
        """Return the piece with spaces."""
        space = "" if self._at_start else " "
        self._at_start = False
        return text.replace(_SPACE, space)

    def end(self) -> str:
        """Return an empty text."""
        return ""


class Bytes:
    """Decodes byte-level pieces, whose characters stand for bytes; a text character may span several pieces.

    Args:
        errors: Whether invalid UTF-8 becomes U+FFFD (``replace``) or is dropped (``ignore``).
    """

    def __init__(self, errors: Literal["replace", "ignore"]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def put(self, text: str) -> str:
        """Return the characters that are complete."""
        try:
            data = bytes([_BYTE_OF[character] for character in text])
        except KeyError:
            # An added token is plain text.
            data = text.encode()
        return self._decoder.decode(data)

    def end(self) -> str:
        """Return the replacement of an incomplete character."""
        return self._decoder.decode(b"", final=True)


class ByteFallback:
    """Replaces ``▁`` by a space, and decodes runs of ``<0x..>`` pieces; bytes of invalid runs are U+FFFD."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def put(self, text: str) -> str:
        """Return the piece, or nothing for a byte: the next one may make the run of bytes invalid."""
        byte = _BYTE.fullmatch(text)
        if byte:
            self._bytes.append(int(byte[1], 16))
            return ""
        return self.end() + text.replace(_SPACE, " ")

    def end(self) -> str:
        """Return the text of the current run of bytes."""
        data, self._bytes = self._bytes, bytearray()
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(data)


class WithoutFirstSpace:
    """Removes a space at the beginning of the text."""

    def __init__(self) -> None:
        self._at_start = True

    def put(self, text: str) -> str:
        """Return the text, without a leading space in the first part."""
        at_start, self._at_start = self._at_start, False
        return text.removeprefix(" ") if at_start else text

    def end(self) -> str:
        """Return an empty text."""
        return ""


class Strip:
    """Removes white space at both ends of the text."""

    def __init__(self) -> None:
        self._at_start = True
        self._spaces: list[str] = []
        """White space at the end of the text so far, which is output if more text follows."""

    def put(self, text: str) -> str:
        """Return the text up to its last character that is not white space."""
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
        """Return an empty text: trailing white space is removed."""
        return ""


class Replacement:
    """Replaces every ``old`` by ``new``, from the left, as ``str.replace``."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""
        """The longest suffix of the text so far that is a proper prefix of ``old``."""

    def put(self, text: str) -> str:
        """Return the text up to a suffix that may be the beginning of ``old``."""
        *whole, rest = (self._held + text).split(self._old)
        held = next(n for n in range(min(len(self._old) - 1, len(rest)), -1, -1) if self._ends(rest, n))
        self._held = rest[len(rest) - held :]
        return self._new.join([*whole, rest[: len(rest) - held]])

    def end(self) -> str:
        """Return the suffix that was held back."""
        return self._held

    def _ends(self, text: str, length: int) -> bool:
        return text.endswith(self._old[:length])


def _byte_table() -> dict[str, int]:
    """Return GPT-2's bytes by character: printable Latin-1 is itself, the rest is U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_table()
