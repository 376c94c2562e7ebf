"""What every object of a manifest has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """The common strictness of every object in a manifest."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
