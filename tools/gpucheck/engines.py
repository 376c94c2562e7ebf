"""Engines whose replays are timed on the device, and the artifacts that stage ``compile`` left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch

import precast
from precast.runtime.backends import graph_loader
from precast.runtime.cuda.device import CapturedGraph, Stream
from precast.runtime.encoder.engine import Encoder
from precast.tools.gpucheck.stage import Setting

T = TypeVar("T")
Mark = tuple[Any, Any]
"""Events around one piece of work."""


class Stopwatch:
    """Collects marks while it is on. The thread that replays adds them, the one that asks reads them."""

    def __init__(self) -> None:
        self.on = False
        self.marks: list[Mark] = []

    def spans(self, work: Callable[[], object], rounds: int) -> list[float]:
        """Seconds of the device, from the start of a call's first replay to the end of its last one."""
        found = []
        for _ in range(rounds):
            self.marks, self.on = [], True
            work()
            self.on = False
            if not self.marks:
                raise RuntimeError("nothing was replayed on the device while it was timed")
            found.append(self.marks[0][0].elapsed_time(self.marks[-1][1]) / 1e3)
        return found


def timed(device: type[Any], stopwatch: Stopwatch, make_event: Callable[[], Any]) -> type[Any]:
    """A device class that marks each replay and each direct run while ``stopwatch`` is on."""

    class Timed(device):
        def replay(self, graph: CapturedGraph, stream: Stream) -> None:
            with self._marked(stream):
                super().replay(graph, stream)

        def run(self, work: Callable[[], T], stream: Stream) -> T:
            with self._marked(stream):
                found: T = super().run(work, stream)
                return found

        @contextmanager
        def _marked(self, stream: Stream) -> Iterator[None]:
            if not stopwatch.on:
                yield
                return
            start, end = make_event(), make_event()
            start.record(stream)
            yield
            end.record(stream)
            stopwatch.marks.append((start, end))

    return Timed


@contextmanager
def timed_engine(
    setting: Setting, path: Path, **options: Any
) -> Iterator[tuple[Encoder, Callable[[Callable[[], object], int], list[float]]]]:
    """An engine, and a function that gives the device seconds of calls to it.

    On a CPU these are the host's: there the call is the replay.
    """
    stopwatch = Stopwatch()
    watched = timed(graph_loader.CudaDevice, stopwatch, lambda: torch.cuda.Event(enable_timing=True))
    with patch.object(graph_loader, "CudaDevice", watched):
        engine = precast.Encoder.load(path, **options)
    with engine:
        yield engine, stopwatch.spans if setting.device == "cuda" else _host_spans


def _host_spans(work: Callable[[], object], rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def artifact(setting: Setting, name: str) -> Path:
    """One that stage ``compile`` made."""
    return setting.work / "artifacts" / f"{name}.precast"


def checkpoint(setting: Setting) -> Path:
    """BERT-base (in a rehearsal a small relative), written by stage ``machine`` or by whom needs it first."""
    return setting.work / "models" / "bert-base"


def random_ids(random: np.random.Generator, lengths: Sequence[int], vocab: int) -> list[np.ndarray]:
    """Inputs of token ids."""
    return [random.integers(0, vocab, size=length, dtype=np.int64).astype(np.int32) for length in lengths]
