"""The options of a generation engine."""

from __future__ import annotations

from dataclasses import dataclass

from precast.graphs.encode import Device
from precast.graphs.seq2seq import ADMIT_TOKENS
from precast.runtime.errors import OptionError

STEPS_PER_LOOK: dict[Device, int] = {"cpu": 2, "cuda": 4}
"""Each step more lets what has ended or arrived wait longer; on CUDA a look takes several calls."""


@dataclass(frozen=True)
class GenerationOptions:
    """See ``load``.

    Raises:
        OptionError: an option is out of range.
    """

    kv_cache_bytes: int | None = None
    cross_fraction: float | None = None
    admit_tokens: int = ADMIT_TOKENS
    patience: int = 4
    steps_per_look: int | None = None
    gpu_memory_utilization: float = 0.9

    def __post_init__(self) -> None:
        for name, least in (
            ("kv_cache_bytes", 1),
            ("admit_tokens", 1),
            ("patience", 0),
            ("steps_per_look", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("kv_cache_bytes", "steps_per_look"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a number from {least} up, found {value!r}")
        for name in ("cross_fraction", "gpu_memory_utilization"):
            share = getattr(self, name)
            if share is not None and not (isinstance(share, float) and 0 < share < 1):
                raise OptionError(f"{name} must be between 0 and 1, found {share!r}")

    def steps_per_look_on(self, device: Device) -> int:
        """What was asked for, else what suits the kind of device."""
        return self.steps_per_look or STEPS_PER_LOOK[device]


DEFAULTS = GenerationOptions()
