"""Tokenizes texts, exactly as the checkpoint's own tokenizer does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import TemplateProcessing

from precast.artifacts.errors import TokenizerFileError
from precast.artifacts.manifest import TokenizationInfo
from precast.runtime.errors import InputError, InputTooLongError, OptionError, TokenizationError
from precast.runtime.io.inputs import Item
from precast.runtime.io.languages import Languages, Surroundings
from precast.runtime.io.tokens import Pieces, TokenReader, Tokens

Truncate = bool | Literal["left", "right"]
Text = str | tuple[str, str]


class TextTokenizer:
    """A tokenizer with the limits of its artifact. Safe to use from many threads.

    Args:
        serialized: Content of ``tokenizer.json``; None if the checkpoint has no tokenizer.
        info: The manifest's description of the tokenizer.
        vocab_size: Token ids are below it.
        max_length: Most tokens of one input.
        max_characters: Most characters of one text. Tokenizing takes time in proportion to the text, even if
            most of it is truncated afterwards.
        measure_prompts: Whether to count the tokens of prompts, for pooling that ignores them.
        languages: Languages, if special tokens depend on the language of the text.
        pieces: The model's vocabulary, if its ids differ from the tokenizer's.
    """

    def __init__(
        self,
        serialized: str | None,
        info: TokenizationInfo,
        *,
        vocab_size: int,
        max_length: int,
        max_characters: int,
        measure_prompts: bool = False,
        languages: Languages | None = None,
        pieces: Pieces | None = None,
    ) -> None:
        self._serialized = serialized
        self._info = info
        self._reader = TokenReader(info, vocab_size, max_length, pieces)
        self._max_length = max_length
        self._max_characters = max_characters
        self._measure_prompts = measure_prompts
        self._languages = languages
        self._pieces = pieces
        self._parsed: dict[tuple[str | None, int], Tokenizer] = {}
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Parse the tokenizer now instead of with the first text."""
        if self._serialized is not None:
            around = self._surroundings(None)
            self._tokenizer(self._side(True), len(around) if around else 0)

    def encode(
        self,
        items: Sequence[Item],
        truncate: Truncate,
        prompt: str = "",
        src_lang: str | None = None,
    ) -> list[Tokens | InputError]:
        """Return the tokens of each item, or the error of an invalid one.

        Args:
            items: Texts, pairs and token ids, mixed.
            truncate: True truncates at the tokenizer's default side, ``"left"`` or ``"right"`` at that side;
                False makes an over-long input an error.
            prompt: Text that is put before every text.
            src_lang: Language of every text; None for the artifact's default. Token ids are used unchanged.

        Raises:
            OptionError: The artifact does not have the language.
        """
        around, side = self._surroundings(src_lang), self._side(truncate)
        ids = {index: item for index, item in enumerate(items) if isinstance(item, np.ndarray)}
        outcomes = dict(zip(ids, self._reader.from_ids(list(ids.values()), side), strict=True))
        texts: dict[int, Text] = {}
        for index, item in enumerate(items):
            if not isinstance(item, np.ndarray):
                try:
                    texts[index] = self._checked(item, prompt)
                except InputError as error:
                    outcomes[index] = error
        prompt_length = self._prompt_length(prompt) if prompt and texts and self._measure_prompts else 0
        encodings = self._encodings(list(texts.values()), side, len(around) if around else 0)
        read = [encoding for encoding in encodings if isinstance(encoding, Encoding)]
        tokens = iter(self._reader.from_encodings(read, around, prompt_length) if read else ())
        for index, encoding in zip(texts, encodings, strict=True):
            outcomes[index] = encoding if isinstance(encoding, InputError) else next(tokens)
        return [outcomes[index] for index in range(len(items))]

    def language_id(self, tgt_lang: str) -> int:
        """Return the token id of a target's language, for ``forced_bos_token_id``.

        Raises:
            OptionError: The artifact does not have the language.
        """
        if self._languages is None:
            raise OptionError(f"tgt_lang {tgt_lang!r}: this artifact's tokenizer has no languages")
        return self._languages.id_of(tgt_lang)

    def target_ids(self, text: str) -> list[int]:
        """Return the tokens of a target's prefix, without special tokens.

        Raises:
            OptionError: The tokenizer has separate vocabularies for sources and targets.
            TokenizationError: There is no tokenizer, or it cannot encode the text.
        """
        if self._pieces is not None:
            raise OptionError("target_prefix cannot be a text for this tokenizer; pass token ids")
        around = self._surroundings(None)
        tokenizer = self._tokenizer(None, len(around) if around else 0)
        try:
            ids: list[int] = tokenizer.encode(self._checked(text, ""), add_special_tokens=False).ids
        except BaseException as error:  # a Rust panic is not an Exception
            _reraise_unless_tokenizers(error)
            raise TokenizationError(f"the tokenizer cannot encode the text: {error}") from error
        return ids

    def _surroundings(self, src_lang: str | None) -> Surroundings | None:
        if self._languages is not None:
            return self._languages.around(src_lang)
        if src_lang is not None:
            raise OptionError(
                f"src_lang {src_lang!r}: this artifact's tokenizer has no languages; do not pass src_lang"
            )
        return None

    def _side(self, truncate: Truncate) -> str | None:
        if truncate is False:
            return None
        return self._info.truncation_side if truncate is True else truncate

    def _tokenizer(self, side: str | None, around: int) -> Tokenizer:
        """Return the tokenizer for one way to truncate, since truncation is state of the object."""
        with self._lock:
            if (side, around) not in self._parsed:
                if self._serialized is None:
                    raise TokenizationError(
                        "the artifact has no tokenizer because its checkpoint had none; pass token ids"
                    )
                self._parsed[side, around] = self._parse(self._serialized, side, around)
            return self._parsed[side, around]

    def _parse(self, serialized: str, side: str | None, around: int) -> Tokenizer:
        """Parse a tokenizer that truncates at ``side`` and leaves room for special tokens around a source."""
        tokenizer = parse_tokenizer(serialized)
        if self._languages is not None:
            # One tokenizer serves all languages: special tokens are added to its output.
            tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        if side is not None:
            try:
                tokenizer.enable_truncation(self._max_length - around, direction=side)
            except BaseException as error:  # a Rust panic is not an Exception
                _reraise_unless_tokenizers(error)
                raise _unreadable(error) from error
        return tokenizer

    def _checked(self, text: Text, prompt: str) -> Text:
        parts = (prompt, text) if isinstance(text, str) else (prompt, *text)
        length = sum(map(len, parts))
        if length > self._max_characters:
            raise InputTooLongError(
                f"{length} characters, at most {self._max_characters} are tokenized; "
                f"pass a shorter text, or load with a larger max_characters"
            )
        return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])

    def _encodings(self, texts: Sequence[Text], side: str | None, around: int) -> list[Encoding | InputError]:
        if not texts:
            return []
        try:
            tokenizer = self._tokenizer(side, around)
        except InputError as error:
            # A new error for each text, because it carries the index of its input.
            return [type(error)(*error.args) for _ in texts]
        try:
            # The fast variant omits the tokens' texts, by which pieces are looked up.
            encode = tokenizer.encode_batch if self._pieces else tokenizer.encode_batch_fast
            return list(encode(list(texts)))
        except BaseException as error:  # a Rust panic is not an Exception
            _reraise_unless_tokenizers(error)
            if len(texts) == 1:
                return [TokenizationError(f"the tokenizer cannot encode the text: {error}")]
            return [self._encodings([text], side, around)[0] for text in texts]

    def _prompt_length(self, prompt: str) -> int:
        """Return the number of a prompt's tokens, as sentence-transformers counts them."""
        (encoding,) = self._encodings([prompt], None, 0)
        ids = [] if isinstance(encoding, InputError) else encoding.ids
        return len(ids) - (bool(ids) and ids[-1] in self._info.special_ids)


def parse_tokenizer(serialized: str) -> Tokenizer:
    """Return a tokenizer that neither truncates nor pads.

    Args:
        serialized: Content of ``tokenizer.json``.

    Raises:
        TokenizerFileError: The tokenizers library cannot read it.
    """
    try:
        tokenizer = Tokenizer.from_str(serialized)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:  # a Rust panic is not an Exception
        _reraise_unless_tokenizers(error)
        raise _unreadable(error) from error
    return tokenizer


def _unreadable(error: BaseException) -> TokenizerFileError:
    return TokenizerFileError(f"the tokenizer cannot be read: {error}; compile the artifact again")


def _reraise_unless_tokenizers(error: BaseException) -> None:
    """Re-raise interrupts, but not a panic of the Rust library, which derives from BaseException."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def tokenizer_json(folder: Path, info: TokenizationInfo) -> str | None:
    """Return the content of an artifact's tokenizer file; None if it has none.

    Raises:
        TokenizerFileError: The file is not UTF-8.
    """
    return None if info.file is None else read_text(folder, info.file)


def read_text(folder: Path, name: str) -> str:
    """Return the content of a tokenizer file.

    Raises:
        TokenizerFileError: The file is not UTF-8.
    """
    try:
        return (folder / name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerFileError(f"{name} is not UTF-8 text: {error}; compile the artifact again") from error
