"""The interface between the decode loop and the code that runs its graphs, and its form for a CPU."""

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
    """Sources that are being encoded into the cross-attention KV cache."""

    def done(self) -> bool:
        """Whether they are encoded; does not wait."""
        ...

    def hidden(self) -> list[np.ndarray]:
        """The encoder's hidden states, fp32 ``[n, size]`` each; waits. Only if ``hidden`` was set."""
        ...


@dataclass(frozen=True, eq=False)
class Launch:
    """Decode steps that were launched.

    Attributes:
        batch: the sequences that they decode.
        steps: their number.
        slot: used by the stepper.
    """

    batch: ActiveBatch
    steps: int
    slot: Any = None


class Stepper(Protocol):
    """The graphs over one pair of KV caches and one state. All calls come from one thread.

    Launches run in order. ``state`` is the host's view: it shows what ``begin`` wrote, and of later steps
    what ``poll`` and ``fetch`` copied.

    Any call may raise DeviceFailedError; the stepper cannot be used after that. After GraphError or
    SignatureError the state of the sequences concerned is undefined.
    """

    state: DecoderState
    depth: int
    """Launches that may be in flight before the oldest is polled."""
    kv_cache_bytes: int
    """Memory of both KV caches."""

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        """Of captured graphs, in the order in which they were captured."""
        ...

    def prepare(self) -> None:
        """Set up what belongs to the calling thread; called once, before all other methods."""
        ...

    def can_encode(self) -> bool:
        """Whether ``encode_sources`` would start immediately."""
        ...

    def encode_sources(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> SourceEncoding:
        """Encode sources in one batch and write their keys and values into the cross-attention KV cache.

        Args:
            sources: token ids, int32 ``[n]`` each.
            slots: where in the kv_cache, int32 ``[n]`` each.
            hidden: whether the hidden states will be asked for.
        """
        ...

    def begin(
        self,
        encoding: SourceEncoding,
        rows: Sequence[int],
        plan: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        """Write the state of a request, whose first step will wait for its ``encoding``.

        The other arguments are those of ``DecoderState.begin``.
        """
        ...

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        """Decode ``steps`` tokens of every sequence of ``batch`` that is not finished."""
        ...

    def poll(self, launch: Launch, rows: Sequence[int]) -> None:
        """Wait for ``launch``; then ``state`` shows the positions of these sequences, and which finished.

        That is ``positions``, ``finished``, ``hypothesis_lengths`` and ``hypothesis_scores``. Launches are
        polled in order, or not at all.
        """
        ...

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None:
        """Copy some of ``OUTPUT_BUFFERS`` into ``state`` as of ``launch``, the last one polled."""
        ...

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Overwrite values that are not finite in these blocks and in block 0."""
        ...

    def close(self) -> None:
        """Release graphs and memory. May be called again."""
        ...


OUTPUT_BUFFERS = ("history", "logprobs", "hypotheses", "hypothesis_logprobs")
"""Buffers of the state that outputs are made of, ``[sequences, length]`` each."""


@dataclass(frozen=True)
class _EncodedSources:
    found: list[np.ndarray]

    def done(self) -> bool:
        return True

    def hidden(self) -> list[np.ndarray]:
        return self.found


class DirectStepper:
    """Runs the graphs of a CPU: all work is done when a call returns; the host shares the state's memory.

    Args:
        steps: the graphs.
        state: that they work on.
        own: blocks of the self-attention KV cache.
        cross: blocks of the cross-attention KV cache.
        kv_cache: the tensors, by name, so that what a failed request wrote can be wiped.
    """

    depth = 1
    captures: tuple[CaptureInfo, ...] = ()

    def __init__(
        self,
        steps: Steps,
        state: DecoderState,
        own: BlockAllocator,
        cross: BlockAllocator,
        kv_cache: Mapping[str, Tensor],
    ) -> None:
        self.state = state
        self.kv_cache_bytes = sum(tensor.nbytes for tensor in kv_cache.values())
        self._steps = steps
        self._own, self._cross = own, cross
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
        rows: Sequence[int],
        plan: SamplingParams,
        source_ids: np.ndarray,
        self_slots: Sequence[np.ndarray],
        cross_slots: np.ndarray,
    ) -> None:
        self.state.begin(rows, plan, source_ids, self_slots, cross_slots)

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        for _ in range(steps):
            self._steps.step(batch)
        return Launch(batch, steps)

    def poll(self, launch: Launch, rows: Sequence[int]) -> None: ...

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None: ...

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Overwrite values that are not finite: masks give them weight zero, but the product is not finite.

        Block 0, which is never handed out, is among what is masked.
        """
        for kind, cache, blocks in (("self", self._own, self_blocks), ("cross", self._cross, cross_blocks)):
            at = cache.slots((0, *blocks), (len(blocks) + 1) * cache.block_size)
            for name, tensor in self._kv_cache.items():
                if name.startswith(f"{kind}_"):
                    tensor[at.astype(np.int64)] = 0

    def close(self) -> None: ...
