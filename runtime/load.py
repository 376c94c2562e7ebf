"""``precast.load``: loads an artifact and starts its engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from precast.artifacts.manifest import EncodeManifest, Manifest
from precast.artifacts.reader import open_artifact
from precast.runtime.encoder.engine import Encoder
from precast.runtime.generation.engine import Seq2Seq
from precast.runtime.options import DEFAULTS, LoadOptions


def load(
    path: str | Path,
    *,
    num_threads: int | None = None,
    cores: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    max_waiting: int = 65_536,
    max_characters: int = 1_000_000,
    device: str | None = None,
    cuda_graph_max_tokens: int | None = None,
    kv_cache_bytes: int | None = None,
    cross_kv_fraction: float | None = None,
    max_batch_delay_steps: int | None = None,
    steps_per_sync: int | None = None,
    gpu_memory_utilization: float | None = None,
) -> Encoder | Seq2Seq:
    """Check and load an artifact; return its running engine.

    ``Encoder.load`` and ``Seq2Seq.load`` do the same for artifacts of one kind, and return that type.

    Args:
        path: the artifact's directory.
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

    Returns:
        An ``Encoder``, or a ``Seq2Seq`` if the artifact generates.

    Raises:
        ArtifactError: the artifact is damaged or was built for another machine; its subclasses say how.
        ProgramError, GraphError: a graph cannot be loaded, or fails on its first batch.
        DeviceFailedError: the CUDA device failed, or its memory does not suffice.
        OptionError: an option is out of range, or the artifact was built for another device.
    """
    options = LoadOptions(
        num_threads=num_threads,
        cores=cores,
        batch_tokens=batch_tokens,
        max_waiting=max_waiting,
        max_characters=max_characters,
        device=device,
        cuda_graph_max_tokens=cuda_graph_max_tokens,
        kv_cache_bytes=kv_cache_bytes,
        cross_kv_fraction=cross_kv_fraction,
        max_batch_delay_steps=max_batch_delay_steps,
        steps_per_sync=steps_per_sync,
        gpu_memory_utilization=gpu_memory_utilization,
    )
    folder = Path(path)
    return start_engine(folder, open_artifact(folder, options.device_index()), options)


def start_engine(folder: Path, manifest: Manifest, options: LoadOptions = DEFAULTS) -> Encoder | Seq2Seq:
    """Return the engine of an artifact whose files were checked; used by the compiler's checks."""
    if isinstance(manifest, EncodeManifest):
        return Encoder.open(folder, manifest, options)
    return Seq2Seq.open(folder, manifest, options)
