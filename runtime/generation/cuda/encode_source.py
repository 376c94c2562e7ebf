"""Source encoding on streams of its own, while other requests decode."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from precast.graphs.buckets import Buckets
from precast.graphs.encode import SEQUENCES, TOKENS
from precast.graphs.seq2seq import CROSS_CACHE, GenerateLimits
from precast.graphs.signature import Signature
from precast.runtime.cuda.device import Device, Stream
from precast.runtime.cuda.replay import CapturedReplay, CaptureOptions, InFlight
from precast.runtime.encoder.packing import fill_example, write_batch
from precast.runtime.generation.steps import LoadedGraph
from precast.runtime.io.tokens import Tokens
from precast.runtime.replay import CaptureInfo, HostBuffers


class CapturedSourceEncoding:
    """A launch of ``encode_source``."""

    def __init__(self, flight: InFlight, lengths: Sequence[int]) -> None:
        self._flight: InFlight | None = flight
        self._lengths = lengths
        self._hidden: list[np.ndarray] = []

    def done(self) -> bool:
        if self._flight is not None and self._flight.done():
            self.finish()
        return self._flight is None

    def hidden(self) -> list[np.ndarray]:
        self.finish()
        return self._hidden

    def finish(self) -> None:
        """Wait for the launch; its buffers may be reused afterwards."""
        if self._flight is None:
            return
        (hidden,) = self._flight.result()
        if len(hidden):
            self._hidden = np.split(hidden.numpy().copy(), np.cumsum(self._lengths)[:-1])
        self._flight = None

    def before(self, stream: Stream) -> None:
        """Make ``stream`` wait for the launch."""
        if self._flight is not None:
            self._flight.before(stream)


class EncodeSourceReplay:
    """Replays ``encode_source`` at buckets of source tokens.

    Args:
        graph: The graph, loaded on the device.
        buckets: Its buckets.
        limits: Limits of the artifact.
        kv_cache: The cross-attention KV cache by name; the graph is bound to it.
        device: The device, opened by this thread.
        upto: ``prepare`` captures buckets up to this size.
    """

    def __init__(
        self,
        graph: LoadedGraph,
        buckets: Buckets,
        limits: GenerateLimits,
        kv_cache: Mapping[str, Tensor],
        device: Device,
        upto: int,
    ) -> None:
        signature = without_kv_cache(graph.signature)
        options = CaptureOptions(
            largest={axis.name: axis.maximum for axis in signature.axes},
            upto=upto,
            fill_example=partial(_fill_example, max_length=limits.max_source_length),
        )
        self._replay = CapturedReplay(
            signature, partial(_with_kv_cache, graph, dict(kv_cache)), buckets, device, options
        )
        self._in_flight: deque[CapturedSourceEncoding] = deque()

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        return self._replay.captures

    def prepare(self) -> None:
        """Raises: DeviceFailedError: the device failed."""
        self._replay.prepare()

    def free(self) -> bool:
        """Return whether ``launch`` would return immediately."""
        self._reap()
        return self._replay.free()

    def launch(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> CapturedSourceEncoding:
        """See ``Stepper.encode_sources``; waits for the oldest launch if the pipeline is full."""
        if not self.free():
            self._in_flight.popleft().finish()
        lengths = np.array([len(source) for source in sources], np.int32)
        tokens = int(lengths.sum())
        buffers = self._replay.buffers_for({TOKENS: tokens, SEQUENCES: len(sources)}, outputs=hidden)
        write_batch(buffers, [Tokens(source, None) for source in sources], lengths, tokens)
        to = buffers.arrays["cross_slots"]
        np.concatenate(slots, out=to[:tokens])
        to[tokens:] = 0
        encoding = CapturedSourceEncoding(self._replay.launch(buffers), lengths.tolist())
        self._in_flight.append(encoding)
        return encoding

    def close(self) -> None:
        self._replay.close()

    def _reap(self) -> None:
        while self._in_flight and self._in_flight[0].done():
            self._in_flight.popleft()


def without_kv_cache(signature: Signature) -> Signature:
    """Return the signature of ``encode_source`` without the KV cache it is bound to."""
    return replace(
        signature,
        axes=tuple(axis for axis in signature.axes if axis.name != CROSS_CACHE),
        inputs=tuple(buffer for buffer in signature.inputs if buffer.role != "kv_cache"),
        written=(),
    )


def _with_kv_cache(
    graph: LoadedGraph, kv_cache: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> list[Tensor]:
    axes = {
        TOKENS: len(inputs["input_ids"]),
        SEQUENCES: len(inputs["cu_seqlens"]) - 1,
        CROSS_CACHE: len(next(iter(kv_cache.values()))),
    }
    given = {**inputs, **kv_cache}
    graph.signature.check(given, axes)
    return graph.graph(given)


def _fill_example(buffers: HostBuffers, max_length: int) -> None:
    """Write an example whose keys and values go to the spare block."""
    fill_example(buffers, max_length)
    buffers.arrays["cross_slots"][:] = 0
