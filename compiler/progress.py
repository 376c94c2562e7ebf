"""Reports the progress of a compilation, to the log and to a function of the caller."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

logger = logging.getLogger("precast.compiler")


class Stage(StrEnum):
    """The stages of the pipeline, in order."""

    READ = "read the checkpoint"
    BUILD = "build the model"
    COMPILE = "compile the graphs"
    WRITE = "write the files"
    PROFILE = "profile the buckets"
    PARITY = "compare with Hugging Face"
    SPEED = "compare speed"
    PUBLISH = "publish"


@dataclass(frozen=True)
class ProgressEvent:
    """The beginning or end of a stage, or of one graph in it.

    Attributes:
        stage: stage of the pipeline.
        graph: file of the graph that begins or ends; None if the event is about the stage.
        finished: whether the event is an end.
        seconds: duration of the stage or of the graph's compilation, at its end.
        from_cache: whether the graph was read from the cache.
        remaining: number of graph files that are not ready yet.
    """

    stage: Stage
    graph: str | None = None
    finished: bool = False
    seconds: float = 0.0
    from_cache: bool = False
    remaining: int = 0


Progress = Callable[[ProgressEvent], None]
"""A function that is called with every event."""


def log_event(event: ProgressEvent) -> None:
    """Log the end of a stage or a graph, at level INFO."""
    if not event.finished:
        return
    if event.from_cache:
        logger.info("%s: from the cache", event.graph or event.stage)
    elif event.graph is None:
        logger.info("%s: %.1f s", event.stage, event.seconds)
    else:
        logger.info("%s: compiled in %.1f s, %d remaining", event.graph, event.seconds, event.remaining)


class Reporter:
    """Times stages, and passes events to the log and to the caller's function.

    Args:
        progress: Function to call with every event, or None.

    Attributes:
        seconds: duration of each finished stage.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[Stage, float] = {}
        self._progress = progress

    def __call__(self, event: ProgressEvent) -> None:
        log_event(event)
        if self._progress is not None:
            self._progress(event)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Report the beginning of a stage and, unless it raises, its end."""
        self(ProgressEvent(stage))
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self(ProgressEvent(stage, finished=True, seconds=seconds))

    def skip(self, stage: Stage) -> None:
        """Report that the result of a stage came from the cache."""
        self.seconds[stage] = 0.0
        self(ProgressEvent(stage, finished=True, from_cache=True))
