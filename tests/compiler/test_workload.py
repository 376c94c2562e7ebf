"""Workload files, and the batches that their lengths make."""

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


def test_a_list_and_an_object_say_the_same(tmp_path: Path) -> None:
    expected = Workload({3: 2, 12: 1}, DEFAULT_CONCURRENCY)
    for content in ([3, 12, 3], {"lengths": [12, 3, 3]}, {"lengths": {"3": 2, "12": 1}}):
        path = tmp_path / "lengths.json"
        path.write_text(json.dumps(content), "utf-8")
        assert read_workload(path) == expected
    told = parse_workload({"lengths": [7], "concurrency": {"1": 900, "32": 100}})
    assert told == Workload({7: 1}, {1: 900, 32: 100})
    assert told.mean_length(5) == 5 and expected.mean_length(100) == 6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("\udcff", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"lengths": [1], "lengths": [2]}', "no JSON.*repeated"),
        ("[1, NaN]", "no JSON.*NaN"),
        ("9" * 5000, "no JSON"),
        ("3", "must be a list of lengths, or an object.*found 3"),
        ("null", "found None"),
        ("{}", r"found \[\]"),
        ('{"length": [1]}', "found .'length'"),
        ('{"lengths": [1], "more": 1}', "found .'lengths', 'more'"),
        ("[]", "lengths is empty"),
        ('{"lengths": []}', "lengths is empty"),
        ('{"lengths": {}}', "lengths must be an object of numbers"),
        ('{"lengths": "12"}', "lengths must be an object of numbers.*'12'"),
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
        ('{"lengths": [1], "concurrency": {}}', "together must be an object of numbers"),
        ('{"lengths": [1], "concurrency": [1]}', r"together must be an object of numbers.*\[1\]"),
        ('{"lengths": [1], "concurrency": {"2": -1}}', r"together\.2.*found -1"),
    ],
)
def test_what_is_no_traffic_is_refused(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(WorkloadError, match=says) as raised:
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
    with pytest.raises(WorkloadError, match="more than 8 bytes; count equal lengths together"):
        read_workload(path)
    monkeypatch.setattr(module, "MAX_BYTES", 9)
    assert read_workload(path).lengths == {1: 1, 2: 1, 3: 1}
    many = {"lengths": [1], "concurrency": {str(count): 1 for count in range(1, 4098)}}
    with pytest.raises(WorkloadError, match="4097 entries, expected at most 4096"):
        parse_workload(many)


def counted(workload: Workload, batching: Batching) -> np.ndarray:
    """Every way in which inputs can come together, one after the other."""
    sizes = np.zeros(batching.top + 1)
    total, windows = sum(workload.lengths.values()), sum(workload.concurrency.values())
    for together, times in workload.concurrency.items():
        left, groups = together, []
        while left:
            groups.append(min(left, batching.max_batch))
            left -= groups[-1]
        for group in groups:
            for drawn in product(workload.lengths, repeat=group):
                odds = times / windows * np.prod([workload.lengths[length] / total for length in drawn])
                for size in cut_without_gaps(
                    [min(length, batching.max_length) for length in drawn], batching
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
    together=st.dictionaries(st.integers(1, 5), st.integers(1, 9), min_size=1, max_size=3),
    max_length=st.integers(1, 30),
    max_batch=st.integers(1, 5),
    budget=st.integers(1, 20),
    above=st.integers(0, 12),
)
def test_batches_are_counted_as_by_hand(
    lengths: dict[int, int],
    together: dict[int, int],
    max_length: int,
    max_batch: int,
    budget: int,
    above: int,
) -> None:
    workload = Workload(lengths, together)
    batching = Batching(max_length, max_batch, budget, budget + above)
    found = batch_sizes(workload, batching)
    np.testing.assert_allclose(found, counted(workload, batching), atol=1e-9)
    assert (found >= 0).all() and found[0] == 0


def test_sizes_that_no_sum_gives_have_no_batch() -> None:
    """A transform leaves noise everywhere; each speck would be looked at as a bucket."""
    workload = Workload({8: 1, 16: 3}, {1: 5, 40: 1})
    found = batch_sizes(workload, Batching(512, 512, 1024, 16_384))
    assert set(np.flatnonzero(found) % 8) == {0}
    assert found[8] == pytest.approx(5 / 6 / 4) and found[1024] == 0


def test_tokens_are_kept() -> None:
    random = np.random.default_rng(0)
    lengths: dict[int, int] = {int(n): int(c) for n, c in random.integers(1, 500, (80, 2))}
    workload = Workload(lengths, {1: 3, 7: 2, 300: 1})
    found: Any = batch_sizes(workload, Batching(400, 64, 1024, 4096))
    tokens = workload.mean_length(400) * (1 * 3 + 7 * 2 + 300) / 6
    assert found @ np.arange(len(found)) == pytest.approx(tokens)
