"""What an engine is asked to do; pickles, and runs in the engine's own process."""

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
    """A contender's engine for an encoder; answers are arrays with a row for each text, or for each token."""

    def embed_ids(self, sequences: Sequence[Ids]) -> np.ndarray:
        """The model alone."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """From strings."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Its own part of ``embed`` that comes first."""
        ...


@dataclass(frozen=True)
class EmbedIds:
    """Batches of token ids, one after the other."""

    batches: tuple[list[Ids], ...]

    def run(self, engine: EncoderEngine) -> np.ndarray:
        return _joined([engine.embed_ids(batch) for batch in self.batches])


@dataclass(frozen=True)
class EmbedTexts:
    """Batches of texts, one after the other."""

    batches: tuple[list[str], ...]

    def run(self, engine: EncoderEngine) -> np.ndarray:
        return _joined([engine.embed(batch) for batch in self.batches])


@dataclass(frozen=True)
class Tokenize:
    """Texts at once; gives their numbers of tokens."""

    texts: list[str]

    def run(self, engine: EncoderEngine) -> list[int]:
        return [len(ids) for ids in engine.tokenize(self.texts)]


@dataclass(frozen=True)
class Generate:
    """One call."""

    job: Job

    def run(self, engine: GenerationEngine) -> Targets:
        return engine.generate(self.job)


@dataclass(frozen=True)
class FirstToken:
    """Seconds until the first token of one source is there; None where the engine cannot stream it."""

    job: Job

    def run(self, engine: GenerationEngine) -> float | None:
        return engine.first_token(self.job)


@dataclass(frozen=True)
class PeakMemory:
    """The most resident bytes that the process had so far; None where the system does not say."""

    def run(self, _: Any) -> int | None:
        status = Path("/proc/self/status")
        lines = status.read_text("ascii").splitlines() if status.is_file() else []
        peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return peaks[0] * 1024 if peaks else None


Work: TypeAlias = EmbedIds | EmbedTexts | Tokenize | Generate | FirstToken | PeakMemory


def served(make: Callable[[], Any], threads: int) -> Callable[[Work], Any]:
    """An engine as ``InterleavedProcesses`` asks it; its tokenizer gets no more threads than its kernels."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    engine = make()
    return lambda work: work.run(engine)


def makers(contenders: Sequence[Contender], threads: int) -> dict[str, Callable[[], Callable[[Work], Any]]]:
    """Contenders as ``InterleavedProcesses`` makes them."""
    return {one.name: partial(served, one.make, threads) for one in contenders}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return parts[0] if len(parts) == 1 else np.concatenate(parts)
