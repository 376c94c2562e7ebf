"""Sources on streams of their own: encoded while others decode."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from precast.graphs.encode import SEQUENCES, TOKENS
from precast.graphs.seq2seq import CROSS_POOL, GenerateLimits
from precast.graphs.buckets import Ladder
from precast.graphs.signature import Signature
from precast.runtime.generation.steps import LoadedGraph
from precast.runtime.encoder.packing import fill_example, write_batch
from precast.runtime.cuda.replay import CapturedReplay, CaptureOptions, InFlight
from precast.runtime.cuda.device import Device, Stream
from precast.runtime.replay import CaptureInfo, HostBuffers
from precast.runtime.io.tokens import Tokens


class CapturedAdmission:
    """A launch of ``admit``."""

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
        """Wait for it; its slot may be used again then."""
        if self._flight is None:
            return
        (hidden,) = self._flight.result()
        if len(hidden):
            self._hidden = np.split(hidden.numpy().copy(), np.cumsum(self._lengths)[:-1])
        self._flight = None

    def before(self, stream: Stream) -> None:
        """Let ``stream`` wait for it."""
        if self._flight is not None:
            self._flight.before(stream)


class CapturedAdmit:
    """Replays ``admit`` at buckets of source tokens.

    Args:
        graph: for the device.
        ladder: its buckets.
        limits: of the artifact.
        pools: all cross pools, by name; the graph is bound to them.
        device: opened by this thread.
        upto: buckets up to this size are captured when it is prepared.
    """

    def __init__(
        self,
        graph: LoadedGraph,
        ladder: Ladder,
        limits: GenerateLimits,
        pools: Mapping[str, Tensor],
        device: Device,
        upto: int,
    ) -> None:
        signature = without_pools(graph.signature)
        options = CaptureOptions(
            largest={axis.name: axis.maximum for axis in signature.axes},
            upto=upto,
            fill_example=partial(_fill_example, max_length=limits.max_source_length),
        )
        self._replay = CapturedReplay(
            signature, partial(_with_pools, graph, dict(pools)), ladder, device, options
        )
        self._in_flight: deque[CapturedAdmission] = deque()

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        return self._replay.captures

    def prepare(self) -> None:
        """Raises: DeviceFailedError: the device failed."""
        self._replay.prepare()

    def free(self) -> bool:
        """Whether ``launch`` would go on at once."""
        self._reap()
        return self._replay.free()

    def launch(
        self, sources: Sequence[np.ndarray], places: Sequence[np.ndarray], *, hidden: bool
    ) -> CapturedAdmission:
        """See ``Stepper.admit``; waits for the oldest launch where as many as may be are in flight."""
        if not self.free():
            self._in_flight.popleft().finish()
        lengths = np.array([len(source) for source in sources], np.int32)
        tokens = int(lengths.sum())
        buffers = self._replay.buffers_for({TOKENS: tokens, SEQUENCES: len(sources)}, answer=hidden)
        write_batch(buffers, [Tokens(source, None) for source in sources], lengths, tokens)
        to = buffers.arrays["cross_places"]
        np.concatenate(places, out=to[:tokens])
        to[tokens:] = 0
        found = CapturedAdmission(self._replay.launch(buffers), lengths.tolist())
        self._in_flight.append(found)
        return found

    def close(self) -> None:
        self._replay.close()

    def _reap(self) -> None:
        while self._in_flight and self._in_flight[0].done():
            self._in_flight.popleft()


def without_pools(signature: Signature) -> Signature:
    """What is left to be given once ``admit`` is bound to its pools."""
    return replace(
        signature,
        axes=tuple(axis for axis in signature.axes if axis.name != CROSS_POOL),
        inputs=tuple(buffer for buffer in signature.inputs if buffer.name not in signature.written),
        written=(),
    )


def _with_pools(
    graph: LoadedGraph, pools: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> list[Tensor]:
    axes = {
        TOKENS: len(inputs["input_ids"]),
        SEQUENCES: len(inputs["cu_seqlens"]) - 1,
        CROSS_POOL: len(next(iter(pools.values()))),
    }
    given = {**inputs, **pools}
    graph.signature.check(given, axes)
    return graph.graph(given)


def _fill_example(buffers: HostBuffers, max_length: int) -> None:
    """Its keys and values go to the page that is never dealt out."""
    fill_example(buffers, max_length)
    buffers.arrays["cross_places"][:] = 0
