"""The options of a generation engine."""

from __future__ import annotations

from dataclasses import dataclass

from precast.runtime.errors import OptionError


@dataclass(frozen=True)
class GenerationOptions:
    """See ``load``.

    Raises:
        OptionError: an option is out of range.
    """

    kv_cache_bytes: int | None = None
    cross_fraction: float | None = None
    admit_tokens: int = 1024
    patience: int = 4
    steps_per_look: int = 2

    def __post_init__(self) -> None:
        for name, least in (
            ("kv_cache_bytes", 1),
            ("admit_tokens", 1),
            ("patience", 0),
            ("steps_per_look", 1),
        ):
            value = getattr(self, name)
            if value is None and name == "kv_cache_bytes":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a number from {least} up, found {value!r}")
        share = self.cross_fraction
        if share is not None and not (isinstance(share, float) and 0 < share < 1):
            raise OptionError(f"cross_fraction must be between 0 and 1, found {share!r}")


DEFAULTS = GenerationOptions()
