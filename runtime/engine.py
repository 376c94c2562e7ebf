"""The base class of ``Encoder`` and ``Seq2Seq``.

An engine is two objects. ``EngineCore`` owns the thread and everything that the thread uses; ``Engine`` is
the user's handle, with the methods of a task. The thread refers to the core only, so that a dropped engine
is garbage-collected: its core then finishes the submitted requests, and ends.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from precast.artifacts.manifest import Manifest
from precast.artifacts.reader import open_artifact
from precast.runtime.core import EngineCore
from precast.runtime.options import LoadOptions
from precast.runtime.stats import EngineStats

logger = logging.getLogger("precast")

_ASYNC_THREADS = 4
"""Threads in which async calls tokenize, and wait for room in the queue."""


class Engine(ABC):
    """Base class of ``Encoder`` and ``Seq2Seq``. Safe to use from many threads.

    An engine is closed by ``close``, by leaving its ``with`` block, or when the interpreter exits; unfinished
    requests then fail with EngineClosedError. An engine that is garbage-collected finishes them first. In a
    forked child process every call fails with EngineForkedError: load the artifact after forking.
    """

    def __init__(self, manifest: Manifest, core: EngineCore) -> None:
        self.manifest = manifest
        self._core = core
        self._finalizer = weakref.finalize(self, core.retire)
        self._finalizer.atexit = False  # at exit all cores are closed
        logger.info("loaded %r with %s", self, self._describe())

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Self:
        """Load an artifact of this kind and return its engine.

        Args:
            path: The artifact's directory.
            **options: Options of ``precast.load``.

        Raises:
            TaskError: The artifact is of another kind; the message names the class that loads it.
            ArtifactError, ProgramError, GraphError, DeviceFailedError, OptionError: As ``precast.load``.
        """
        folder, checked = Path(path), LoadOptions(**options)
        return cls.open(folder, open_artifact(folder, checked.device_index()), checked)

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, manifest: Manifest, options: LoadOptions) -> Self:
        """Return the engine of an artifact whose files were checked. Users call ``load``."""

    @abstractmethod
    def stats(self) -> EngineStats:
        """Return counts since the engine was loaded, and its current load."""

    def _describe(self) -> str:
        """Return a summary of the loaded graphs for the log."""
        graphs = self.manifest.graphs.values()
        stats = self.stats()
        captured = f", {len(stats.captures)} captured graphs" if stats.captures else ""
        return f"{len(graphs)} graphs, {sum(len(graph.buckets.sizes) for graph in graphs)} buckets{captured}"

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all submitted requests have finished.

        Args:
            timeout: Most seconds to wait.

        Returns:
            Whether all requests have finished.
        """
        return self._core.drain(timeout)

    def close(self) -> None:
        """Fail unfinished requests, end the thread and release the graphs. Idempotent."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        model, build = self.manifest.model, self.manifest.build
        return (
            f"{type(self).__name__}({model.name!r}, task={model.task!r}, dtype={build.dtype!r}, "
            f"device={build.device!r})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or sent to another process: it holds a thread and "
            f"loaded graphs; send the path of the artifact and load it there"
        )

    @cached_property
    def executor(self) -> ThreadPoolExecutor:
        """Threads in which async calls tokenize and queue, so that asyncio's default executor stays free."""
        return ThreadPoolExecutor(_ASYNC_THREADS, thread_name_prefix="precast-aio")
