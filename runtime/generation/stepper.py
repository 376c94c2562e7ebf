"""``Stepper``, the interface between the decode loop and its graphs, and its implementation for a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.block_allocator import BlockAllocator
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.steps import Steps
from precast.runtime.replay import CaptureInfo


class SourceEncoding(Protocol):
    """A batch of sources whose keys and values are being written to the cross-attention KV cache."""

    def done(self) -> bool:
        """Return whether the batch is encoded, without waiting."""
        ...

    def hidden(self) -> list[np.ndarray]:
        """Wait for the hidden states, fp32 ``[n, size]`` each; requires ``encode_sources(hidden=True)``."""
        ...


@dataclass(frozen=True, eq=False)
class Launch:
    """Launched decode steps.

    Attributes:
        batch: The active sequences.
        steps: Number of steps.
        slot: Data of the stepper.
    """

    batch: ActiveBatch
    steps: int
    slot: Any = None


class Stepper(Protocol):
    """Runs the graphs over one decoder state and its KV caches. All calls come from one thread.

    Launches run in order. Any call may raise DeviceFailedError; the stepper cannot be used after that. After
    GraphError or SignatureError the state of the sequences concerned is undefined.

    Attributes:
        state: The host's view of the state: values that ``begin`` wrote, and those that ``poll`` and
            ``fetch`` copied.
        depth: Most launches in flight before the oldest is polled.
        kv_cache_bytes: Memory of both KV caches.
    """

    state: DecoderState
    depth: int
    kv_cache_bytes: int

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        """Captured graphs, in the order of their capture."""
        ...

    def prepare(self) -> None:
        """Set up thread-local resources; called once, before all other methods."""
        ...

    def can_encode(self) -> bool:
        """Return whether ``encode_sources`` would start immediately."""
        ...

    def encode_sources(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> SourceEncoding:
        """Encode sources in one batch and write their keys and values into the cross-attention KV cache.

        Args:
            sources: Token ids, int32 ``[n]`` each.
            slots: Slots in the KV cache, int32 ``[n]`` each.
            hidden: Whether the hidden states are needed.
        """
        ...

    def begin(
        self,
        encoding: SourceEncoding,
        seq_ids: Sequence[int],
        params: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        """Write the state of a request. Its first step waits for ``encoding``.

        The other arguments are those of ``DecoderState.begin``.
        """
        ...

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        """Start to decode ``steps`` tokens of every unfinished sequence of ``batch``."""
        ...

    def poll(self, launch: Launch, seq_ids: Sequence[int]) -> None:
        """Wait for ``launch``, and copy the progress of some sequences into ``state``.

        The buffers are ``positions``, ``finished``, ``hypothesis_lengths`` and ``hypothesis_scores``.
        Launches are polled in order; some may be skipped.
        """
        ...

    def fetch(self, launch: Launch, seq_ids: Sequence[int], names: Sequence[str]) -> None:
        """Copy some of ``OUTPUT_BUFFERS`` after ``launch``, the last one polled, into ``state``."""
        ...

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Clear these blocks and block 0 if values that are not finite could leak from them."""
        ...

    def close(self) -> None:
        """Release graphs and memory. Idempotent."""
        ...


OUTPUT_BUFFERS = ("history", "logprobs", "hypotheses", "hypothesis_logprobs")
"""State buffers that outputs are read from, ``[sequences, length]`` each."""


@dataclass(frozen=True)
class _EncodedSources:
    states: list[np.ndarray]

    def done(self) -> bool:
        return True

    def hidden(self) -> list[np.ndarray]:
        return self.states


class DirectStepper:
    """Implements ``Stepper`` on a CPU: calls are synchronous, and graphs share the host's state.

    Args:
        steps: The graphs.
        state: The decoder state.
        self_cache: Blocks of the self-attention KV cache.
        cross_cache: Blocks of the cross-attention KV cache.
        kv_cache: Tensors of both KV caches by name.
    """

    depth = 1
    captures: tuple[CaptureInfo, ...] = ()

    def __init__(
        self,
        steps: Steps,
        state: DecoderState,
        self_cache: BlockAllocator,
        cross_cache: BlockAllocator,
        kv_cache: Mapping[str, Tensor],
    ) -> None:
        self.state = state
        self.kv_cache_bytes = sum(tensor.nbytes for tensor in kv_cache.values())
        self._steps = steps
        self._caches = {"self": self_cache, "cross": cross_cache}
        self._kv_cache = kv_cache

    def prepare(self) -> None: ...

    def can_encode(self) -> bool:
        return True

    def encode_sources(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> SourceEncoding:
        return _EncodedSources(self._steps.encode_sources(sources, slots))

    def begin(
        self,
        encoding: SourceEncoding,
        seq_ids: Sequence[int],
        params: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        self.state.begin(seq_ids, params, source_ids, self_slots, cross_slots)

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        for _ in range(steps):
            self._steps.step(batch)
        return Launch(batch, steps)

    def poll(self, launch: Launch, seq_ids: Sequence[int]) -> None: ...

    def fetch(self, launch: Launch, seq_ids: Sequence[int], names: Sequence[str]) -> None: ...

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Set all values of these blocks and of block 0 to zero.

        Masked slots, those of block 0 included, have weight 0, but 0 * NaN is NaN.
        """
        for kind, blocks in (("self", self_blocks), ("cross", cross_blocks)):
            cache = self._caches[kind]
            at = cache.slots((0, *blocks), (len(blocks) + 1) * cache.block_size)
            for name, tensor in self._kv_cache.items():
                if name.startswith(f"{kind}_"):
                    tensor[at.astype(np.int64)] = 0

    def close(self) -> None: ...
