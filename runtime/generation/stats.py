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
        source_batches: launches of ``encode_source``.
        waiting: requests not admitted yet.
        running: requests that decode.
        num_seqs_used: rows of state in use, of ``rows``.
        self_blocks_used: blocks of the self kv_cache in use, of ``self_blocks``.
        cross_blocks_used: blocks of the cross kv_cache in use, of ``cross_blocks``.
        kv_cache_bytes: of the kv_cache.
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
    source_batches: int
    waiting: int
    running: int
    rows: int
    num_seqs_used: int
    self_blocks: int
    self_blocks_used: int
    cross_blocks: int
    cross_blocks_used: int
    kv_cache_bytes: int
    captures: tuple[CaptureInfo, ...]
    capture_seconds: float
    graph_bytes: int
    tokens_per_second: float
