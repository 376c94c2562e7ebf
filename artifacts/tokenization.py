"""The parts of a manifest that describe how ids become text, and what a tokenizer adds for each language."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from precast.artifacts.base import StrictModel, TokenId


class DecodingInfo(StrictModel):
    """How token ids become text."""

    joins: Literal["metaspace", "byte_level", "valid_bytes", "byte_fallback", "plain"]
    """How pieces are joined. ``metaspace``: ``▁`` is a space. ``byte_level``: each character of a piece is a
    byte, and invalid UTF-8 becomes U+FFFD. ``valid_bytes``: likewise, but invalid UTF-8 is dropped.
    ``byte_fallback``: ``▁`` is a space and ``<0x41>`` a byte. ``plain``: pieces are text."""
    drops_prefix: bool
    """Whether the space before the first word is dropped."""
    strips: bool
    """Whether white space at both ends is dropped."""
    cleans_up: bool
    """Whether spaces before punctuation and English contractions are dropped."""
    skipped_ids: tuple[TokenId, ...]
    """Special tokens, which have no text."""
    pieces_file: str | None
    """Set if the ids of the model differ from those of the tokenizer: a JSON file whose ``ids`` map the
    tokenizer's pieces to ids of the model, and whose ``texts`` hold the text of each id, or null."""
    unknown_id: TokenId | None
    """Set together with ``pieces_file``: the id of a piece that the file does not name."""

    @model_validator(mode="after")
    def _pieces_are_complete(self) -> DecodingInfo:
        if (self.pieces_file is None) is not (self.unknown_id is None):
            raise ValueError(
                f"expected pieces_file and unknown_id together, found pieces_file = {self.pieces_file} and "
                f"unknown_id = {self.unknown_id}"
            )
        return self


class LanguageInfo(StrictModel):
    """The languages that a source may have, and the tokens around a source."""

    codes: Annotated[dict[str, TokenId], Field(min_length=1, max_length=4096)]
    """The token of each language, by its code."""
    default: str | None
    """The language of a source if a request does not name one; None: no language token is added then."""
    prefix: tuple[TokenId | None, ...]
    """Tokens before a source; None is replaced by the token of its language."""
    suffix: tuple[TokenId | None, ...]
    """Tokens after a source, likewise."""

    @model_validator(mode="after")
    def _default_is_known(self) -> LanguageInfo:
        if self.default is not None and self.default not in self.codes:
            raise ValueError(f"the default language {self.default} is not one of the codes")
        return self
