"""What generation asks of whatever runs its graphs: at once on a CPU, ahead of the host on CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.block_allocator import PagePool
from precast.runtime.generation.sampling_params import Plan
from precast.runtime.generation.state import RowState
from precast.runtime.generation.steps import Steps
from precast.runtime.replay import CaptureInfo


class Admission(Protocol):
    """Sources on their way into the cross pools."""

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
    """The graphs over one set of pools and one state. All calls come from one thread.

    What was begun goes on in the order in which it was begun. ``state`` is the host's view: it shows what
    ``begin`` wrote, and of later steps what ``look`` and ``fetch`` brought.

    Any call may raise DeviceFailedError; nothing can be done after that. GraphError, SignatureError: what was
    asked for failed, and nothing is known of the state of its rows.
    """

    state: RowState
    depth: int
    """Launches that may be under way before one of them is looked at."""
    kv_cache_bytes: int
    """Of both pools."""

    @property
    def captures(self) -> tuple[CaptureInfo, ...]:
        """Of captured graphs, in the order in which they were captured."""
        ...

    def prepare(self) -> None:
        """Set up what belongs to the calling thread; called once, before all others."""
        ...

    def can_admit(self) -> bool:
        """Whether ``admit`` would go on at once."""
        ...

    def admit(
        self, sources: Sequence[np.ndarray], places: Sequence[np.ndarray], *, hidden: bool
    ) -> Admission:
        """Encode sources together and write what the decoder reads of them into the cross pools.

        Args:
            sources: token ids, int32 ``[n]`` each.
            places: where in the pools, int32 ``[n]`` each.
            hidden: whether the hidden states will be asked for.
        """
        ...

    def begin(
        self,
        admission: Admission,
        rows: Sequence[int],
        plan: Plan,
        source_ids: np.ndarray,
        own_places: Sequence[np.ndarray],
        cross_places: np.ndarray,
    ) -> None:
        """Write the state of a request, whose first step will wait for its ``admission``.

        The other arguments are those of ``RowState.begin``.
        """
        ...

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        """Take every row of ``batch`` that is not finished so many tokens on."""
        ...

    def look(self, launch: Launch, rows: Sequence[int]) -> None:
        """Wait for ``launch``; then ``state`` shows where these of its rows stand, and which have ended.

        That is ``positions``, ``finished``, ``hypothesis_lengths`` and ``hypothesis_scores``. Launches are
        looked at in their order, or not at all.
        """
        ...

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None:
        """Bring more of ``state``, one of ``ANSWERS``, as it was after ``launch``, the last one looked at."""
        ...

    def wipe(self, self_pages: Sequence[int], cross_pages: Sequence[int]) -> None:
        """Let nothing that lies in these pages, or in the one that is never dealt out, reach anybody."""
        ...

    def close(self) -> None:
        """Let go of graphs and memory. May be called again."""
        ...


ANSWERS = ("history", "logprobs", "hypotheses", "hypothesis_logprobs")
"""Buffers of the state that answers are made of, ``[rows, length]`` each."""


@dataclass(frozen=True)
class _Admitted:
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
        own: of the self pools.
        cross: of the cross pools.
        pools: the tensors, by name, so that what a broken request wrote can be wiped out.
    """

    depth = 1
    captures: tuple[CaptureInfo, ...] = ()

    def __init__(
        self, steps: Steps, state: RowState, own: PagePool, cross: PagePool, pools: Mapping[str, Tensor]
    ) -> None:
        self.state = state
        self.kv_cache_bytes = sum(tensor.nbytes for tensor in pools.values())
        self._steps = steps
        self._own, self._cross = own, cross
        self._pools = pools

    def prepare(self) -> None: ...

    def can_admit(self) -> bool:
        return True

    def admit(
        self, sources: Sequence[np.ndarray], places: Sequence[np.ndarray], *, hidden: bool
    ) -> Admission:
        return _Admitted(self._steps.admit(sources, places))

    def begin(
        self,
        admission: Admission,
        rows: Sequence[int],
        plan: Plan,
        source_ids: np.ndarray,
        own_places: Sequence[np.ndarray],
        cross_places: np.ndarray,
    ) -> None:
        self.state.begin(rows, plan, source_ids, own_places, cross_places)

    def launch(self, batch: ActiveBatch, steps: int) -> Launch:
        for _ in range(steps):
            self._steps.step(batch)
        return Launch(batch, steps)

    def look(self, launch: Launch, rows: Sequence[int]) -> None: ...

    def fetch(self, launch: Launch, rows: Sequence[int], names: Sequence[str]) -> None: ...

    def wipe(self, self_pages: Sequence[int], cross_pages: Sequence[int]) -> None:
        """Overwrite what is no number: a mask gives it no weight, but zero times it is no number either.

        The page that is never dealt out is among what is masked.
        """
        for kind, pool, pages in (("self", self._own, self_pages), ("cross", self._cross, cross_pages)):
            at = pool.places((0, *pages), (len(pages) + 1) * pool.page_size)
            for name, tensor in self._pools.items():
                if name.startswith(f"{kind}_"):
                    tensor[at.astype(np.int64)] = 0

    def close(self) -> None: ...
