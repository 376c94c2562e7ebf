"""What a generation engine has done and holds."""

from __future__ import annotations

from dataclasses import dataclass

from precast.runtime.replay import CaptureInfo


@dataclass(frozen=True)
class GenerationStats:
    """Since the engine was loaded, and at this moment.

    Attributes:
        requests: answered.
        failed: ended by an error.
        cancelled: ended by their maker.
        tokens: generated, the rows of all beams counted.
        steps: of the decoder.
        admissions: launches of ``admit``.
        waiting: requests not admitted yet.
        running: requests that decode.
        rows_used: rows of state in use, of ``rows``.
        self_pages_used: pages of the self pools in use, of ``self_pages``.
        cross_pages_used: pages of the cross pools in use, of ``cross_pages``.
        kv_cache_bytes: of the pools.
        captures: on CUDA, one for each captured graph.
        capture_seconds: that they took together.
        graph_bytes: device memory that they took: intermediate and output tensors, not the weights.
        tokens_per_second: over the last five seconds.
    """

    requests: int
    failed: int
    cancelled: int
    tokens: int
    steps: int
    admissions: int
    waiting: int
    running: int
    rows: int
    rows_used: int
    self_pages: int
    self_pages_used: int
    cross_pages: int
    cross_pages_used: int
    kv_cache_bytes: int
    captures: tuple[CaptureInfo, ...]
    capture_seconds: float
    graph_bytes: int
    tokens_per_second: float
