"""The work that a contender's engine does in its own process; picklable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from precast.tools.bench.peers.contender import Contender
from precast.tools.bench.peers.jobs import GenerationEngine, Job, Targets

if TYPE_CHECKING:
    import numpy as np

Ids: TypeAlias = list[int]


class EncoderEngine(Protocol):
    """The engine of a contender for encoders; outputs have a row for each text or each token."""

    def embed_ids(self, sequences: Sequence[Ids]) -> np.ndarray:
        """Run the model on token ids."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenize texts and run the model."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Return the token ids that ``embed`` computes from texts."""
        ...


@dataclass(frozen=True)
class EmbedIds:
    """Run batches of token ids, one after the other."""

    batches: tuple[list[Ids], ...]

    def run(self, engine: EncoderEngine) -> np.ndarray:
        return _joined([engine.embed_ids(batch) for batch in self.batches])


@dataclass(frozen=True)
class EmbedTexts:
    """Run batches of texts, one after the other."""

    batches: tuple[list[str], ...]

    def run(self, engine: EncoderEngine) -> np.ndarray:
        return _joined([engine.embed(batch) for batch in self.batches])


@dataclass(frozen=True)
class Tokenize:
    """Tokenize texts in one call; the output is their token counts."""

    texts: list[str]

    def run(self, engine: EncoderEngine) -> list[int]:
        return [len(ids) for ids in engine.tokenize(self.texts)]


@dataclass(frozen=True)
class Generate:
    """Run one call of ``generate``."""

    job: Job

    def run(self, engine: GenerationEngine) -> Targets:
        return engine.generate(self.job)


@dataclass(frozen=True)
class FirstToken:
    """Measure the seconds until the first token of one source; None if the engine cannot stream."""

    job: Job

    def run(self, engine: GenerationEngine) -> float | None:
        return engine.first_token(self.job)


@dataclass(frozen=True)
class PeakMemory:
    """Read the peak resident memory of the process in bytes; None if the system does not report it."""

    def run(self, _: Any) -> int | None:
        status = Path("/proc/self/status")
        lines = status.read_text("ascii").splitlines() if status.is_file() else []
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return peaks[0] * 1024 if peaks else None


Work: TypeAlias = EmbedIds | EmbedTexts | Tokenize | Generate | FirstToken | PeakMemory


def served(make: Callable[[], Any], threads: int) -> Callable[[Work], Any]:
    """Create an engine and return a function that runs work on it.

    The tokenizer gets as many threads as the kernels.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    engine = make()
    return lambda work: work.run(engine)


def makers(contenders: Sequence[Contender], threads: int) -> dict[str, Callable[[], Callable[[Work], Any]]]:
    """Return the functions from which ``InterleavedProcesses`` creates the contenders."""
    return {one.name: partial(served, one.make, threads) for one in contenders}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)
