"""Compiling the graphs of a model: in parallel processes, as many as cores and memory allow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from precast.compiler.cache import cache_key, compile_into_cache, find
from precast.compiler.graph import CompiledGraph, CompiledVariant, GraphSpec, GraphVariant, variants
from precast.compiler.lowering.backend import Backend, CompiledFile
from precast.compiler.options import CompileOptions
from precast.compiler.progress import ProgressEvent, Reporter, Stage
from precast.compiler.targets.registry import lowering_options
from precast.compiler.targets.target import Target
from precast.compiler.worker import CompileJob, WorkerPool

_BYTES_PER_PROCESS = 2 << 30
"""Memory of a process besides the weights: torch, the graph and the C++ compiler."""


@dataclass(frozen=True)
class _Pending:
    variant: GraphVariant
    backend: Backend
    key: str


def compile_graphs(
    specs: Sequence[GraphSpec], target: Target, options: CompileOptions, report: Reporter
) -> tuple[CompiledGraph, ...]:
    """Compile all graphs that are not in the cache; return them in order.

    Args:
        specs: the graphs.
        target: the target to compile for.
        options: the options of the compilation.
        report: called when compiling a file begins and ends.

    Raises:
        LoweringError: a graph cannot be compiled.
    """
    files = [
        _Pending(variant, backend, cache_key(backend, variant))
        for spec in specs
        for backend in [target.backend(spec.lowering_options(lowering_options(options)))]
        for variant in variants(spec, backend)
    ]
    progress = _FileProgress(report, len(files))
    ready: dict[str, CompiledVariant] = {}
    missing: list[_Pending] = []
    for file in files:
        compiled = find(file.key)
        if compiled is None:
            missing.append(file)
        else:
            ready[file.variant.file] = CompiledVariant(file.variant, compiled, from_cache=True)
            progress.ended(file.variant.file, 0.0, from_cache=True)
    for file, compiled in zip(missing, _compile_missing(missing, target, options, progress), strict=True):
        ready[file.variant.file] = CompiledVariant(file.variant, compiled, from_cache=False)
    return tuple(
        CompiledGraph(spec, tuple(ready[one.variant.file] for one in files if one.variant.spec is spec))
        for spec in specs
    )


def compile_variant(variant: GraphVariant, backend: Backend) -> CompiledVariant:
    """Return one variant from the cache, or compile it in this process.

    Raises:
        LoweringError: it cannot be compiled.
    """
    file = _Pending(variant, backend, cache_key(backend, variant))
    compiled = find(file.key)
    if compiled is not None:
        return CompiledVariant(variant, compiled, from_cache=True)
    compiled = compile_into_cache(file.key, partial(_compile_here, file))
    return CompiledVariant(variant, compiled, from_cache=False)


def _compile_missing(
    missing: Sequence[_Pending], target: Target, options: CompileOptions, progress: _FileProgress
) -> list[CompiledFile]:
    if not missing:
        return []
    processes = min(len(missing), _processes(missing))
    if processes < 2 or target.portable or any(file.backend.times_kernels for file in missing):
        return [_compiled(file, partial(_compile_here, file), progress) for file in missing]
    with WorkerPool(processes) as pool, ThreadPoolExecutor(processes) as threads:

        def compile_there(file: _Pending) -> CompiledFile:
            lowering = file.variant.spec.lowering_options(lowering_options(options))
            job = CompileJob(
                target.name, lowering, file.variant.module, file.variant.spec.signature, file.variant.size
            )
            return _compiled(file, partial(pool.run, job), progress)

        # The largest first: what is started last should be short.
        order = sorted(missing, key=lambda file: _weight_bytes([file]), reverse=True)
        by_key = dict(zip([file.key for file in order], threads.map(compile_there, order), strict=True))
    return [by_key[file.key] for file in missing]


def _compiled(
    file: _Pending, compile_into: Callable[[Path], CompiledFile], progress: _FileProgress
) -> CompiledFile:
    progress.began(file.variant.file)
    started = time.perf_counter()
    compiled = compile_into_cache(file.key, compile_into)
    progress.ended(file.variant.file, time.perf_counter() - started, from_cache=False)
    return compiled


def _compile_here(file: _Pending, folder: Path) -> CompiledFile:
    spec = file.variant.spec
    return file.backend.compile(file.variant.module, spec.signature, file.variant.size, folder)


def _processes(missing: Sequence[_Pending]) -> int:
    """Return the number of processes that cores and free memory allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return cores
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Weights are held twice: as they arrive, and prepacked.
    return max(1, min(cores, free // (_BYTES_PER_PROCESS + 2 * _weight_bytes(missing))))


def _weight_bytes(files: Sequence[_Pending]) -> int:
    """Return the bytes of the largest module's weights."""
    modules = (file.variant.spec.module for file in files)
    return max(sum(int(tensor.nbytes) for tensor in module.state_dict().values()) for module in modules)


class _FileProgress:
    """Counts the files that are not ready yet."""

    def __init__(self, report: Reporter, total: int) -> None:
        self._report = report
        self._remaining = total
        self._lock = Lock()

    def began(self, file: str) -> None:
        self._report(ProgressEvent(Stage.COMPILE, file, remaining=self._remaining))

    def ended(self, file: str, seconds: float, *, from_cache: bool) -> None:
        with self._lock:
            self._remaining -= 1
            self._report(ProgressEvent(Stage.COMPILE, file, True, seconds, from_cache, self._remaining))
