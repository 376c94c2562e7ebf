"""The interface through which engines parse and tokenize inputs.

A preprocessor for another kind of input, such as log-mel features of audio, implements ``Preprocessor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from precast.runtime.errors import InputError
from precast.runtime.io.inputs import Item, parse, parse_pair, parse_without_pairs
from precast.runtime.io.tokenization import TextTokenizer, Truncate
from precast.runtime.io.tokens import Tokens

Pairs = Literal["allowed", "refused", "required"]
"""Whether an input may, must not or must be a pair."""


class Preprocessor(Protocol):
    """Checks inputs, estimates their size and turns them into a graph's inputs. Used by many threads."""

    def parse(self, value: Any, pairs: Pairs) -> Item:
        """Check the type of one input.

        Raises:
            InputError: The input has an unsupported type.
        """
        ...

    def size(self, item: Item) -> int:
        """Return an estimate of an input's tokens, by which inputs are sorted."""
        ...

    def process(
        self, items: Sequence[Item], truncate: Truncate, prompt: str = "", src_lang: str | None = None
    ) -> list[Tokens | InputError]:
        """Tokenize inputs; ``len`` of a result is its cost in tokens.

        Returns:
            For each input its tokens, or the error of an invalid one.

        Raises:
            OptionError: The artifact does not support an option.
        """
        ...


class TextPreprocessor:
    """Preprocesses texts, pairs of texts and token ids, for graphs whose input is token ids."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    def parse(self, value: Any, pairs: Pairs) -> Item:
        """See ``Preprocessor``."""
        if pairs == "required":
            return parse_pair(value)
        return parse(value) if pairs == "allowed" else parse_without_pairs(value)

    def size(self, item: Item) -> int:
        """See ``Preprocessor``; a token is about four characters."""
        if isinstance(item, str):
            return len(item) // 4
        return sum(map(len, item)) // 4 if isinstance(item, tuple) else len(item)

    def process(
        self, items: Sequence[Item], truncate: Truncate, prompt: str = "", src_lang: str | None = None
    ) -> list[Tokens | InputError]:
        """See ``Preprocessor``."""
        return self._tokenizer.encode(items, truncate, prompt, src_lang)
