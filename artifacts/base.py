"""The base class of all objects in a manifest, and the types of common values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds = tuple[TokenId, ...]
Number = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0)]


class StrictModel(BaseModel):
    """An object in a manifest: frozen, without unknown keys, without conversions between types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
