"""What generation asks of whatever runs its graphs: at once on a CPU, ahead of the host on CUDA."""

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
    """Sources on their way into the cross kv_cache."""

    def done(self) -> bool:
        """Whether they are there; does not wait."""
        ...

    def hidden(self) -> list[np.ndarray]:
        """The encoder's hidden states, fp32 ``[n, size]`` each; waits. To be asked only if announced."""
        ...


@dataclass(frozen=True, eq=False)
class Launch:
    """Steps that were begun.

    Attributes:
        batch: that they take on.
        steps: how many.
        slot: the stepper's own.
    """

    batch: ActiveBatch
    steps: int
    slot: Any = None


class Stepper(Protocol):
    """The graphs over one set of kv_cache and one state. All calls come from one thread.

    What was begun goes on in the order in which it was begun. ``state`` is the host's view: it shows what
    ``begin`` wrote, and of later steps what ``poll`` and ``fetch`` brought.

    Any call may raise DeviceFailedError; nothing can be done after that. GraphError, SignatureError: what was
    asked for failed, and nothing is known of the state of its rows.
    """

    state: DecoderState
    depth: int
    """Launches that may be under way before one of them is looked at."""
    kv_cache_bytes: int
    """Of both kv_cache."""

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        """Of captured graphs, in the order in which they were captured."""
        ...

    def prepare(self) -> None:
        """Set up what belongs to the calling thread; called once, before all others."""
        ...

    def can_encode(self) -> bool:
        """Whether ``encode_source`` would go on at once."""
        ...

    def encode_sources(
        self, sources: Sequence[np.ndarray], slots: Sequence[np.ndarray], *, hidden: bool
    ) -> SourceEncoding:
        """Encode sources together and write what the decoder reads of them into the cross kv_cache.

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
        """Take every row of ``batch`` that is not finished so many tokens on."""
        ...

    def poll(self, launch: Launch, rows: Sequence[int]) -> None:
        """Wait for ``launch``; then ``state`` shows where these of its rows stand, and which have ended.

        That is ``positions``, ``finished``, ``hypothesis_lengths`` and ``hypothesis_scores``. Launches are
        looked at in their order, or not at all.
        """
        ...

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None:
        """Bring more of ``state``, one of ``OUTPUT_BUFFERS``, as it was after ``launch``, the last one looked at."""
        ...

    def wipe(self, self_blocks: Sequence[int], cross_blocks: Sequence[int]) -> None:
        """Let nothing that lies in these blocks, or in the one that is never dealt out, reach anybody."""
        ...

    def close(self) -> None:
        """Let go of graphs and memory. May be called again."""
        ...


OUTPUT_BUFFERS = ("history", "logprobs", "hypotheses", "hypothesis_logprobs")
"""Buffers of the state that answers are made of, ``[rows, length]`` each."""


@dataclass(frozen=True)
class _EncodedSources:
    found: list[np.ndarray]

    def done(self) -> bool:
        return True

    def hidden(self) -> list[np.ndarray]:
        return self.found


class DirectStepper:
    """Everything is over when a call returns; the host shares the state's memory.

    Args:
        steps: the graphs.
        state: that they work on.
        own: of the self kv_cache.
        cross: of the cross kv_cache.
        kv_cache: the tensors, by name, so that what a broken request wrote can be wiped out.
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
        """Overwrite what is no number: a mask gives it no weight, but zero times it is no number either.

        The block that is never dealt out is among what is masked.
        """
        for kind, cache, blocks in (("self", self._own, self_blocks), ("cross", self._cross, cross_blocks)):
            at = cache.slots((0, *blocks), (len(blocks) + 1) * cache.block_size)
            for name, tensor in self._kv_cache.items():
                if name.startswith(f"{kind}_"):
                    tensor[at.astype(np.int64)] = 0

    def close(self) -> None: ...
