"""Engines whose replays are timed on the device, and the artifacts of stage ``compile``."""

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
"""Start and end events of one replay."""


class Stopwatch:
    """Collects event pairs while it is on. The engine's thread adds them, the calling thread reads them."""

    def __init__(self) -> None:
        self.on = False
        self.marks: list[Mark] = []

    def spans(self, work: Callable[[], object], rounds: int) -> list[float]:
        """Return device seconds of each call, from the start of its first replay to the end of its last."""
        seconds = []
        for _ in range(rounds):
            self.marks, self.on = [], True
            work()
            self.on = False
            if not self.marks:
                raise RuntimeError("expected a replay on the device during the call, found none")
            seconds.append(self.marks[0][0].elapsed_time(self.marks[-1][1]) / 1e3)
        return seconds


def timed(device: type[Any], stopwatch: Stopwatch, make_event: Callable[[], Any]) -> type[Any]:
    """Return a device class that records events around replays and direct runs for a stopwatch."""

    class Timed(device):
        def replay(self, graph: CapturedGraph, stream: Stream) -> None:
            with self._marked(stream):
                super().replay(graph, stream)

        def run(self, work: Callable[[], T], stream: Stream) -> T:
            with self._marked(stream):
                result: T = super().run(work, stream)
                return result

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
    """Yield an engine and a function that returns the device seconds of calls.

    On a CPU they are the seconds of the call itself.
    """
    stopwatch = Stopwatch()
    watched = timed(graph_loader.CudaDevice, stopwatch, lambda: torch.cuda.Event(enable_timing=True))
    with patch.object(graph_loader, "CudaDevice", watched):
        engine = precast.Encoder.load(path, **options)
    with engine:
        yield engine, stopwatch.spans if setting.device == "cuda" else _host_spans


def _host_spans(work: Callable[[], object], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def artifact(setting: Setting, name: str) -> Path:
    """Return the directory of an artifact of stage ``compile``."""
    return setting.work / "artifacts" / f"{name}.precast"


def checkpoint(setting: Setting) -> Path:
    """Return the directory of BERT-base, or of a tiny BERT in a rehearsal."""
    return setting.work / "models" / "bert-base"


def random_ids(random: np.random.Generator, lengths: Sequence[int], vocab: int) -> list[np.ndarray]:
    """Return inputs of random token ids, int32, with the given lengths."""
    return [random.integers(0, vocab, size=length, dtype=np.int64).astype(np.int32) for length in lengths]
