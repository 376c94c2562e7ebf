"""The options of a generation engine."""

from __future__ import annotations

from dataclasses import dataclass

from precast.graphs.encode import Device
from precast.graphs.seq2seq import SOURCE_BATCH_TOKENS
from precast.runtime.errors import OptionError

STEPS_PER_SYNC: dict[Device, int] = {"cpu": 2, "cuda": 4}
"""Each step more lets what has ended or arrived wait longer; on CUDA a look takes several calls."""


@dataclass(frozen=True)
class GenerationOptions:
    """See ``load``.

    Raises:
        OptionError: an option is out of range.
    """

    kv_cache_bytes: int | None = None
    cross_kv_fraction: float | None = None
    source_batch_tokens: int = SOURCE_BATCH_TOKENS
    max_batch_delay_steps: int = 4
    steps_per_sync: int | None = None
    gpu_memory_utilization: float = 0.9

    def __post_init__(self) -> None:
        for name, least in (
            ("kv_cache_bytes", 1),
            ("source_batch_tokens", 1),
            ("max_batch_delay_steps", 0),
            ("steps_per_sync", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("kv_cache_bytes", "steps_per_sync"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a number from {least} up, found {value!r}")
        for name in ("cross_kv_fraction", "gpu_memory_utilization"):
            share = getattr(self, name)
            if share is not None and not (isinstance(share, float) and 0 < share < 1):
                raise OptionError(f"{name} must be between 0 and 1, found {share!r}")

    def steps_per_sync_on(self, device: Device) -> int:
        """What was asked for, else what suits the kind of device."""
        return self.steps_per_sync or STEPS_PER_SYNC[device]


DEFAULTS = GenerationOptions()
