"""The step from a user's inputs to what a graph is fed. Engines know inputs through this interface only.

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
"""Whether an input may consist of two parts, as pairs of texts do."""


class Preprocessor(Protocol):
    """Checks inputs, estimates their cost, and turns them into what a graph is fed. Used by many threads."""

    def parse(self, value: Any, pairs: Pairs) -> Item:
        """Check the type of one input.

        Raises:
            InputError: the input is not of a known type.
        """
        ...

    def size(self, item: Item) -> int:
        """Estimate how many tokens an input will have; inputs are processed longest first."""
        ...

    def process(
        self, items: Sequence[Item], truncate: Truncate, prompt: str = "", src_lang: str | None = None
    ) -> list[Tokens | InputError]:
        """Turn inputs into what the graph is fed; ``len`` of it is its cost in tokens.

        Returns:
            For each input its tokens, or the error of that input alone.

        Raises:
            OptionError: an option is not supported by the artifact.
        """
        ...


class TextPreprocessor:
    """Texts, pairs of texts and token ids, for graphs that are fed token ids."""

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
