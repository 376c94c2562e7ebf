"""The expected workload: lengths of inputs, how many arrive together, and the batches that follow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from precast.compiler.errors import WorkloadError
from precast.graphs import strict_json

MAX_BYTES = 16 << 20
MAX_GROUPS = 4096
"""Most entries of ``concurrency``: each takes a pass over all batch sizes."""
DEFAULT_CONCURRENCY: Mapping[int, int] = {1: 32, 2: 16, 4: 8, 8: 4, 16: 2, 32: 1}
"""Default numbers of inputs that arrive together: as many inputs alone as in pairs, in fours, … in 32s."""

_MOST = 1 << 53
"""Larger counts are not exact as floating-point numbers."""
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_NOISE = 1e-12
"""Rounding error of a distribution after a Fourier transform."""


@dataclass(frozen=True)
class Workload:
    """How often each input length occurs, and how often each number of inputs arrives together."""

    lengths: Mapping[int, int]
    concurrency: Mapping[int, int]

    def mean_length(self, max_length: int) -> float:
        """Return the mean tokens of an input, with longer ones truncated to ``max_length``."""
        tokens = sum(min(length, max_length) * count for length, count in self.lengths.items())
        return tokens / sum(self.lengths.values())


@dataclass(frozen=True)
class Batching:
    """The limits that an engine packs batches by.

    Attributes:
        max_length: longer inputs are truncated to it.
        max_batch: most inputs of a batch.
        budget: most tokens of a batch; a longer input gets a batch of its own.
        top: the largest bucket; larger batches have no bucket.
    """

    max_length: int
    max_batch: int
    budget: int
    top: int


def read_workload(path: Path) -> Workload:
    """Read a workload file.

    Raises:
        WorkloadError: the file cannot be read, is larger than ``MAX_BYTES``, or is not a workload.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise WorkloadError(f"the workload file {path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise WorkloadError(
            f"the workload file {path} has more than {MAX_BYTES} bytes; count equal lengths, or use a sample"
        )
    try:
        data = strict_json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(
            f"the workload file {path} is not JSON: {error}; expected a list of lengths, or an object"
        ) from error
    return parse_workload(data)


def parse_workload(data: Any) -> Workload:
    """Check the content of a workload file: a list of lengths, or an object.

    The object has ``lengths``, a list or an object that counts each length, and may have ``concurrency``,
    an object that counts how many inputs arrive together.

    Raises:
        WorkloadError: it is something else.
    """
    given = {"lengths": data} if isinstance(data, list) else data
    if not isinstance(given, dict) or "lengths" not in given or set(given) - {"lengths", "concurrency"}:
        found = sorted(given) if isinstance(given, dict) else given
        raise WorkloadError(
            f"workload must be a list of lengths, or an object with lengths and optionally concurrency; "
            f"found {shortened(found)}"
        )
    lengths = given["lengths"]
    counts = _listed(lengths) if isinstance(lengths, list) else _counted("lengths", lengths)
    concurrency = (
        _counted("concurrency", given["concurrency"]) if "concurrency" in given else DEFAULT_CONCURRENCY
    )
    if len(concurrency) > MAX_GROUPS:
        raise WorkloadError(
            f"concurrency has {len(concurrency)} entries, expected at most {MAX_GROUPS}; round the numbers"
        )
    return Workload(counts, concurrency)


def batch_sizes(workload: Workload, batching: Batching) -> np.ndarray:
    """Return the expected number of batches with 0, 1, … ``top`` tokens for each arrival of inputs.

    Lengths are assumed to be independent, and packing to leave no gaps: the inputs that arrive together make
    full batches and one with the remainder. The distribution of a sum of lengths modulo the budget is a
    circular convolution; the number of full batches follows from the means.
    """
    groups = _within(workload.concurrency, batching.max_batch)
    inputs = sum(count * size for size, count in groups.items())
    lengths = np.zeros(max(batching.max_length, batching.budget, batching.top) + 1)
    for length, count in workload.lengths.items():
        lengths[min(length, batching.max_length)] += count
    lengths /= lengths.sum()
    sizes = np.zeros_like(lengths)
    sizes[batching.budget + 1 :] = inputs * lengths[batching.budget + 1 :]
    packed = lengths[: batching.budget + 1].copy()
    packed[0] = lengths[batching.budget + 1 :].sum()  # a longer input does not share a batch
    rests = _rests(packed, groups)
    sizes[1 : batching.budget] = rests[1:]
    left = rests @ np.arange(batching.budget)
    sizes[batching.budget] = (inputs * (packed @ np.arange(len(packed))) - left) / batching.budget
    sizes[sizes < _NOISE * max(1.0, inputs)] = 0
    return sizes[: batching.top + 1]


def _rests(packed: np.ndarray, groups: Mapping[int, float]) -> np.ndarray:
    """Return how often the tokens of a group have each remainder when divided by the budget."""
    budget = len(packed) - 1
    folded = packed[:budget].copy()
    folded[0] += packed[budget]
    spectrum = np.fft.rfft(folded)
    total = sum(count * spectrum**size for size, count in groups.items())
    return np.fft.irfft(total, n=budget)


def _within(concurrency: Mapping[int, int], max_batch: int) -> dict[int, float]:
    """Return the share of each group size, with more than ``max_batch`` inputs split into several groups."""
    total = sum(concurrency.values())
    found: dict[int, float] = {}
    for size, count in concurrency.items():
        full, rest = divmod(size, max_batch)
        for part, times in ((max_batch, full), (rest, 1)):
            if part and times:
                found[part] = found.get(part, 0.0) + times * count / total
    return found


def _listed(lengths: list[Any]) -> dict[int, int]:
    for place, length in enumerate(lengths):
        _check(f"lengths[{place}]", length)
    if not lengths:
        raise WorkloadError("lengths is empty; expected the tokens of at least one input")
    return dict(Counter(lengths))


def _counted(name: str, data: Any) -> dict[int, int]:
    if not isinstance(data, dict) or not data:
        raise WorkloadError(
            f'{name} must be an object that counts numbers, such as {{"12": 340}}; found {shortened(data)}'
        )
    for key, count in data.items():
        if not _NUMBER.fullmatch(key):
            raise WorkloadError(f"a key of {name} must be a positive whole number, found {shortened(key)}")
        _check(f"{name}.{key}", count)
    return {int(key): count for key, count in data.items()}


def _check(place: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
        raise WorkloadError(f"{place} must be a positive whole number, found {shortened(value)}")
