"""The options of an engine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from precast.artifacts.manifest import Manifest
from precast.graphs.encode import BATCH_TOKENS
from precast.graphs.graph_names import GraphName
from precast.runtime.errors import OptionError

MAX_THREADS = 1024
"""The process ends where the system refuses to start a kernel's thread."""
_DEVICE = re.compile(r"cpu|cuda(:(?P<index>\d{1,3}))?")


@dataclass(frozen=True)
class EngineOptions:
    """See ``load``.

    Raises:
        OptionError: an option is out of range.
    """

    num_threads: int | None = None
    batch_tokens: int | None = None
    max_waiting: int = 65_536
    max_characters: int = 1_000_000
    device: str | None = None
    capture: int | None = None
    cores: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in ("device", "cores") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} must be a positive number, found {value!r}")
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise OptionError(f"num_threads must be at most {MAX_THREADS}, found {self.num_threads}")
        if self.device is not None and not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise OptionError(f"device must be 'cpu', 'cuda' or such as 'cuda:1', found {self.device!r}")

        if self.cores is not None:
            self._check_cores(self.cores)

    def _check_cores(self, cores: tuple[int, ...]) -> None:
        if not hasattr(os, "sched_getaffinity"):
            raise OptionError("cores can be chosen on Linux alone; leave them out")
        allowed = os.sched_getaffinity(0)
        if not cores or not set(cores) <= allowed or len(set(cores)) < len(cores):
            raise OptionError(f"cores must be different ones of {sorted(allowed)}, found {list(cores)}")

    def device_index(self) -> int:
        """Of the CUDA device; 0 where none was named."""
        found = _DEVICE.fullmatch(self.device or "cuda")
        return int(found["index"] or 0) if found else 0

    def device_for(self, manifest: Manifest) -> str:
        """``cpu``, or the CUDA device with its index: ``cuda:0``.

        Raises:
            OptionError: the artifact was built for another kind of device than the one asked for.
        """
        built = manifest.build.device
        if self.device is not None and self.device.partition(":")[0] != built:
            raise OptionError(
                f"the artifact was built for {built}, device is {self.device!r}; leave it out, or compile "
                f"the model for that device"
            )
        return "cpu" if built == "cpu" else f"cuda:{self.device_index()}"

    def batch_tokens_for(self, manifest: Manifest) -> int:
        """On CUDA the top of the buckets, unless told otherwise; never more than the artifact takes."""
        default = (
            manifest.graphs[GraphName.ENCODE].buckets.top if manifest.build.device == "cuda" else BATCH_TOKENS
        )
        return min(self.batch_tokens or default, manifest.limits.max_tokens)


DEFAULTS = EngineOptions()
