"""The manifest's parts for a tokenizer whose ids become text again, and for one that knows languages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from precast.artifacts.base import StrictModel, TokenId


class DecodingInfo(StrictModel):
    """How token ids become text."""

    joins: Literal["metaspace", "byte_level", "valid_bytes", "byte_fallback", "plain"]
    """``metaspace``: ``▁`` is a space. ``byte_level``: each character of a piece is a byte, and bytes that
    are no UTF-8 become U+FFFD; ``valid_bytes``: they are left out. ``byte_fallback``: ``▁`` is a space and
    ``<0x41>`` a byte. ``plain``: pieces are text already."""
    drops_prefix: bool
    """Whether the space that stands before the first word is left out."""
    strips: bool
    """Whether white space at both ends is left out."""
    cleans_up: bool
    """Whether spaces before punctuation and English contractions are left out."""
    skipped_ids: tuple[TokenId, ...]
    """Special tokens: they have no text."""
    pieces_file: str | None
    """Where the model's ids are not the tokenizer's: a JSON object with ``ids``, from the pieces that the
    tokenizer gives to the model's ids, and ``texts``, the text of each id or null."""
    unknown_id: TokenId | None
    """With ``pieces_file``: the id of a piece that it does not name."""

    @model_validator(mode="after")
    def _pieces_are_complete(self) -> DecodingInfo:
        if (self.pieces_file is None) is not (self.unknown_id is None):
            raise ValueError(f"pieces_file = {self.pieces_file} with unknown_id = {self.unknown_id}")
        return self


class LanguageInfo(StrictModel):
    """Which languages a source may have, and what stands around it."""

    codes: Annotated[dict[str, TokenId], Field(min_length=1, max_length=4096)]
    """The token of each language."""
    default: str | None
    """The source's language where a call names none; None: no language's token is put there."""
    prefix: tuple[TokenId | None, ...]
    """Tokens before a source; None stands for its language."""
    suffix: tuple[TokenId | None, ...]
    """Tokens after a source."""

    @model_validator(mode="after")
    def _default_is_known(self) -> LanguageInfo:
        if self.default is not None and self.default not in self.codes:
            raise ValueError(f"the default language {self.default} is none of the codes")
        return self
