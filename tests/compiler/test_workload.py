"""Workload files, and the distribution of batch sizes that follows from them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.compiler.buckets import workload as module
from precast.compiler.buckets.workload import (
    DEFAULT_CONCURRENCY,
    Batching,
    Workload,
    batch_sizes,
    parse_workload,
    read_workload,
)
from precast.compiler.errors import WorkloadError


def test_a_list_and_an_object_are_equivalent(tmp_path: Path) -> None:
    expected = Workload({3: 2, 12: 1}, DEFAULT_CONCURRENCY)
    for content in ([3, 12, 3], {"lengths": [12, 3, 3]}, {"lengths": {"3": 2, "12": 1}}):
        path = tmp_path / "lengths.json"
        path.write_text(json.dumps(content), "utf-8")
        assert read_workload(path) == expected
    workload = parse_workload({"lengths": [7], "concurrency": {"1": 900, "32": 100}})
    assert workload == Workload({7: 1}, {1: 900, 32: 100})
    assert workload.mean_length(5) == 5 and expected.mean_length(100) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"lengths": [1], "lengths": [2]}', "not JSON.*repeated"),
        ("[1, NaN]", "not JSON.*NaN"),
        ("9" * 5000, "not JSON"),
        ("3", "must be a list of lengths, or an object.*found 3"),
        ("null", "found None"),
        ("{}", r"found \[\]"),
        ('{"length": [1]}', "found .'length'"),
        ('{"lengths": [1], "more": 1}', "found .'lengths', 'more'"),
        ("[]", "lengths is empty"),
        ('{"lengths": []}', "lengths is empty"),
        ('{"lengths": {}}', "lengths must be an object that counts numbers"),
        ('{"lengths": "12"}', "lengths must be an object that counts numbers.*'12'"),
        ("[1, 0]", r"lengths\[1\] must be a positive whole number, found 0"),
        ("[-3]", r"lengths\[0\].*found -3"),
        ("[1.0]", r"lengths\[0\].*found 1\.0"),
        ("[true]", r"lengths\[0\].*found True"),
        ('["5"]', r"lengths\[0\].*found '5'"),
        ("[9007199254740992]", "must be a positive whole number"),
        ('{"lengths": {"0": 1}}', "a key of lengths must be a positive whole number, found '0'"),
        ('{"lengths": {"-1": 1}}', "a key of lengths.*'-1'"),
        ('{"lengths": {"1.5": 1}}', r"a key of lengths.*'1\.5'"),
        ('{"lengths": {"٣": 1}}', "a key of lengths"),
        ('{"lengths": {"99999999999": 1}}', "a key of lengths"),
        ('{"lengths": {"3": 0}}', r"lengths\.3 must be a positive whole number, found 0"),
        ('{"lengths": {"3": null}}', r"lengths\.3.*found None"),
        ('{"lengths": [1], "concurrency": {}}', "concurrency must be an object that counts numbers"),
        ('{"lengths": [1], "concurrency": [1]}', r"concurrency must be an object that counts numbers.*\[1\]"),
        ('{"lengths": [1], "concurrency": {"2": -1}}', r"concurrency\.2.*found -1"),
    ],
)
def test_invalid_workloads_are_rejected(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(WorkloadError, match=message) as raised:
        read_workload(path)
    assert len(str(raised.value)) < 500


def test_files_that_cannot_be_read_or_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkloadError, match="gone.json cannot be read: No such file"):
        read_workload(tmp_path / "gone.json")
    with pytest.raises(WorkloadError, match="cannot be read: Is a directory"):
        read_workload(tmp_path)
    path = tmp_path / "lengths.json"
    path.write_text("[1, 2, 3]", "utf-8")
    monkeypatch.setattr(module, "MAX_BYTES", 8)
    with pytest.raises(WorkloadError, match="more than 8 bytes; count equal lengths"):
        read_workload(path)
    monkeypatch.setattr(module, "MAX_BYTES", 9)
    assert read_workload(path).lengths == {1: 1, 2: 1, 3: 1}
    many = {"lengths": [1], "concurrency": {str(count): 1 for count in range(1, 4098)}}
    with pytest.raises(WorkloadError, match="4097 entries, expected at most 4096"):
        parse_workload(many)


def counted(workload: Workload, batching: Batching) -> np.ndarray:
    """Return the expected number of batches of each size, by enumerating all simultaneous inputs."""
    sizes = np.zeros(batching.top + 1)
    total, windows = sum(workload.lengths.values()), sum(workload.concurrency.values())
    for concurrency, times in workload.concurrency.items():
        remaining, groups = concurrency, []
        while remaining:
            groups.append(min(remaining, batching.max_batch))
            remaining -= groups[-1]
        for group in groups:
            for lengths in product(workload.lengths, repeat=group):
                odds = times / windows * np.prod([workload.lengths[length] / total for length in lengths])
                for size in cut_without_gaps(
                    [min(length, batching.max_length) for length in lengths], batching
                ):
                    if size <= batching.top:
                        sizes[size] += odds
    return sizes


def cut_without_gaps(lengths: list[int], batching: Batching) -> list[int]:
    alone = [length for length in lengths if length > batching.budget]
    full, rest = divmod(sum(lengths) - sum(alone), batching.budget)
    return alone + [batching.budget] * full + [rest] * (rest > 0)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.dictionaries(st.integers(1, 30), st.integers(1, 9), min_size=1, max_size=4),
    concurrency=st.dictionaries(st.integers(1, 5), st.integers(1, 9), min_size=1, max_size=3),
    max_length=st.integers(1, 30),
    max_batch=st.integers(1, 5),
    budget=st.integers(1, 20),
    above=st.integers(0, 12),
)
def test_batch_sizes_equal_those_of_an_enumeration(
    lengths: dict[int, int],
    concurrency: dict[int, int],
    max_length: int,
    max_batch: int,
    budget: int,
    above: int,
) -> None:
    workload = Workload(lengths, concurrency)
    batching = Batching(max_length, max_batch, budget, budget + above)
    sizes = batch_sizes(workload, batching)
    np.testing.assert_allclose(sizes, counted(workload, batching), atol=1e-9)
    assert (sizes >= 0).all() and sizes[0] == 0


def test_impossible_sizes_have_no_batches() -> None:
    """The Fourier transform leaves noise at all sizes, and each would become a candidate for a bucket."""
    workload = Workload({8: 1, 16: 3}, {1: 5, 40: 1})
    sizes = batch_sizes(workload, Batching(512, 512, 1024, 16_384))
    assert set(np.flatnonzero(sizes) % 8) == {0}
    assert sizes[8] == pytest.approx(5 / 6 / 4) and sizes[1024] == 0


def test_the_expected_number_of_tokens_is_preserved() -> None:
    random = np.random.default_rng(0)
    lengths: dict[int, int] = {int(n): int(c) for n, c in random.integers(1, 500, (80, 2))}
    workload = Workload(lengths, {1: 3, 7: 2, 300: 1})
    sizes: Any = batch_sizes(workload, Batching(400, 64, 1024, 4096))
    tokens = workload.mean_length(400) * (1 * 3 + 7 * 2 + 300) / 6
    assert sizes @ np.arange(len(sizes)) == pytest.approx(tokens)
