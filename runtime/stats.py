"""Statistics of engines: counts since loading, and the current load."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from precast.runtime.replay import CaptureInfo

_SECONDS = 5.0
_ENTRIES = 4096


class Throughput:
    """A rate over the last five seconds."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int]] = deque(maxlen=_ENTRIES)

    def add(self, count: int) -> None:
        """Add ``count`` events at the current time."""
        self._done.append((time.monotonic(), count))

    def per_second(self) -> float:
        """Return the events per second over the last 5 seconds, or since the first event if that is later."""
        now = time.monotonic()
        recent = [entry for entry in tuple(self._done) if entry[0] > now - _SECONDS]
        if len(recent) < 2:
            return 0.0
        # The events of the first entry happened before its time.
        return sum(count for _, count in recent[1:]) / max(now - recent[0][0], 1e-9)


@dataclass
class GenerationCounts:
    """Counters of a generation engine since it was loaded."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0
    source_batches: int = 0
    throughput: Throughput = field(default_factory=Throughput)


@dataclass(frozen=True)
class EngineStats:
    """Statistics that every engine has.

    Attributes:
        requests: requests that got an output.
        failed: requests that ended with an error, timeouts included.
        cancelled: requests that were cancelled before they had an output.
        tokens: tokens of the inputs of an encoder; tokens that a generation engine generated, all beams
            counted.
        waiting: requests in the queue.
        captures: on CUDA, one entry for each captured graph.
    """

    requests: int
    failed: int
    cancelled: int
    tokens: int
    waiting: int
    captures: Sequence[CaptureInfo]

    @property
    def capture_seconds(self) -> float:
        """Total seconds of all graph captures."""
        return sum(capture.seconds for capture in self.captures)

    @property
    def graph_bytes(self) -> int:
        """Device memory of captured graphs: intermediate and output tensors, not the weights."""
        return sum(capture.bytes for capture in self.captures)


@dataclass(frozen=True)
class EncoderStats(EngineStats):
    """Statistics of an encoder.

    Attributes:
        batches: packed batches computed.
    """

    batches: int


@dataclass(frozen=True)
class GenerationStats(EngineStats):
    """Statistics of a generation engine.

    Attributes:
        steps: decode steps.
        source_batches: ``encode_source`` batches.
        running: running requests.
        num_seqs: most sequences that can decode simultaneously.
        num_seqs_used: sequences of running requests.
        self_blocks: blocks of the self-attention KV cache.
        self_blocks_used: self-attention blocks in use.
        cross_blocks: blocks of the cross-attention KV cache.
        cross_blocks_used: cross-attention blocks in use.
        kv_cache_bytes: memory of both KV caches.
        tokens_per_second: tokens generated per second, over the last five seconds.
    """

    steps: int
    source_batches: int
    running: int
    num_seqs: int
    num_seqs_used: int
    self_blocks: int
    self_blocks_used: int
    cross_blocks: int
    cross_blocks_used: int
    kv_cache_bytes: int
    tokens_per_second: float
