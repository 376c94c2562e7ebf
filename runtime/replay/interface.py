"""What the engines ask of a graph, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from precast.graphs.signature import Signature
from precast.runtime.replay.buffers import StaticBuffers


class Replay(Protocol):
    """One graph, ready to be replayed.

    The caller asks ``sizes`` at which sizes a batch will run, fills ``buffers`` up to those sizes, and
    calls ``run``. A captured graph answers with its bucket; a direct call with the batch's own sizes.
    """

    signature: Signature
    buffers: StaticBuffers

    def sizes(self, needed: Mapping[str, int]) -> dict[str, int]:
        """The size of each axis at which a batch of the ``needed`` sizes runs."""
        ...

    def run(self, sizes: Mapping[str, int]) -> list[Tensor]:
        """Replay. The results may be overwritten by the next call."""
        ...

    def close(self) -> None:
        """Let go of the graph and its memory."""
        ...
