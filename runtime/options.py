"""The options of ``load``, checked in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from precast.artifacts.manifest import EncodeManifest, GenerateManifest, Manifest
from precast.graphs.encode import BATCH_TOKENS, Device
from precast.graphs.graph_names import GraphName
from precast.graphs.seq2seq import SOURCE_BATCH_TOKENS
from precast.runtime.errors import OptionError

MAX_THREADS = 1024
"""Most threads: OpenMP ends the process if the system cannot start a thread."""
STEPS_PER_SYNC: dict[Device, int] = {"cpu": 2, "cuda": 4}
"""Default decode steps between two polls: with more steps requests wait longer; polls on CUDA are slow."""

_DEVICE = re.compile(r"cpu|cuda(:(?P<index>\d{1,3}))?")
_LEAST = {
    "num_threads": 1,
    "batch_tokens": 1,
    "max_waiting": 1,
    "max_characters": 1,
    "cuda_graph_max_tokens": 1,
    "kv_cache_bytes": 1,
    "max_batch_delay_steps": 0,
    "steps_per_sync": 1,
}
_REQUIRED = ("max_waiting", "max_characters")
_GENERATION = (
    "kv_cache_bytes",
    "cross_kv_fraction",
    "max_batch_delay_steps",
    "steps_per_sync",
    "gpu_memory_utilization",
)


@dataclass(frozen=True)
class LoadOptions:
    """The options of ``precast.load``. None selects a default that depends on the artifact.

    Attributes:
        num_threads: threads of the graphs' kernels on a CPU; by default one for each of ``cores``, or torch's
            number.
        cores: on Linux, the CPU cores that these threads run on; engines of one process should not share any.
            By default the system decides.
        batch_tokens: tokens of a packed encoder batch, at most the artifact's ``max_tokens``. By default 2048
            for an encoder on a CPU, the largest bucket for one on CUDA (larger batches run without a captured
            graph), and 1024 for the sources of an encoder-decoder.
        max_waiting: most requests in the queue; if it is full, ``submit`` raises QueueFullError, and calls
            with lists wait for room.
        max_characters: most characters of one text; longer texts are rejected before they are tokenized.
        device: ``"cuda"`` or ``"cuda:1"`` for an artifact built for CUDA, by default device 0; ``"cpu"`` for
            one built for a CPU.
        cuda_graph_max_tokens: on CUDA, capture the graphs of buckets up to this size while loading, and
            larger ones when a batch first needs them; by default all. A decoder's steps are captured while
            loading for requests without parameters.
        kv_cache_bytes: memory of both KV caches of an encoder-decoder. By default enough for all
            sequences at their longest, but at most 1 GiB, on CUDA what ``gpu_memory_utilization`` leaves.
        cross_kv_fraction: the share of ``kv_cache_bytes`` for cross-attention; by default as in the longest
            request.
        max_batch_delay_steps: decode steps by which a request may be delayed so that several are encoded in
            one batch; 4 by default.
        steps_per_sync: decode steps between two polls, at which requests finish, are cancelled and start; by
            default 2, on CUDA 4.
        gpu_memory_utilization: on CUDA, the share of the device's memory that this and all other processes
            may use; 0.9 by default. The KV caches use the memory left after weights and CUDA graphs.

    Raises:
        OptionError: an option is out of range.
    """

    num_threads: int | None = None
    cores: Sequence[int] | None = None
    batch_tokens: int | None = None
    max_waiting: int = 65_536
    max_characters: int = 1_000_000
    device: str | None = None
    cuda_graph_max_tokens: int | None = None
    kv_cache_bytes: int | None = None
    cross_kv_fraction: float | None = None
    max_batch_delay_steps: int | None = None
    steps_per_sync: int | None = None
    gpu_memory_utilization: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name not in _REQUIRED:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}, found {value!r}")
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise OptionError(f"num_threads must be at most {MAX_THREADS}, found {self.num_threads}")
        for name in ("cross_kv_fraction", "gpu_memory_utilization"):
            share = getattr(self, name)
            if share is not None and not (isinstance(share, float) and 0 < share < 1):
                raise OptionError(f"{name} must be between 0 and 1, found {share!r}")
        if self.device is not None and not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise OptionError(f"device must be 'cpu', 'cuda' or such as 'cuda:1', found {self.device!r}")
        if self.cores is not None:
            self._check_cores(self.cores)

    def _check_cores(self, cores: Sequence[int]) -> None:
        if not hasattr(os, "sched_getaffinity"):
            raise OptionError("cores can be set on Linux only; do not pass cores")
        allowed = os.sched_getaffinity(0)
        if not cores or not set(cores) <= allowed or len(set(cores)) < len(cores):
            raise OptionError(f"cores must be distinct numbers among {sorted(allowed)}, found {list(cores)}")

    def device_index(self) -> int:
        """Return the index of the CUDA device; 0 by default."""
        match = _DEVICE.fullmatch(self.device or "cuda")
        return int(match["index"] or 0) if match else 0

    def check_for(self, manifest: Manifest) -> None:
        """Check the options against an artifact.

        Raises:
            OptionError: the artifact was built for another device, or an option needs an artifact that
                generates.
        """
        built = manifest.build.device
        if self.device is not None and self.device.partition(":")[0] != built:
            raise OptionError(
                f"the artifact was built for {built}, device is {self.device!r}; do not pass device, or "
                f"compile the model for that device"
            )
        given = [name for name in _GENERATION if getattr(self, name) is not None]
        if given and not isinstance(manifest, GenerateManifest):
            raise OptionError(
                f"{', '.join(given)} need an artifact that generates, this one was compiled with --task "
                f"{manifest.model.task}"
            )

    def device_for(self, manifest: Manifest) -> str:
        """Return the device: ``cpu``, or ``cuda`` with its index, such as ``cuda:0``."""
        return "cpu" if manifest.build.device == "cpu" else f"cuda:{self.device_index()}"

    def batch_tokens_for(self, manifest: Manifest) -> int:
        """Return the most tokens of a packed encoder batch, within the artifact's limits."""
        limits = manifest.limits
        if isinstance(manifest, EncodeManifest):
            on_cuda = manifest.build.device == "cuda"
            default = manifest.graphs[GraphName.ENCODE].buckets.top if on_cuda else BATCH_TOKENS
            return min(self.batch_tokens or default, limits.max_tokens)
        least = limits.max_input_length
        return min(max(self.batch_tokens or SOURCE_BATCH_TOKENS, least), limits.max_tokens)

    def delay_steps(self) -> int:
        """Return ``max_batch_delay_steps``, or its default."""
        return 4 if self.max_batch_delay_steps is None else self.max_batch_delay_steps

    def steps_per_sync_on(self, device: Device) -> int:
        """Return ``steps_per_sync``, or the default for the device."""
        return self.steps_per_sync or STEPS_PER_SYNC[device]

    def memory_share(self) -> float:
        """Return ``gpu_memory_utilization``, or its default."""
        return self.gpu_memory_utilization or 0.9

    def given(self) -> dict[str, object]:
        """Return the options that differ from their defaults, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }


DEFAULTS = LoadOptions()
