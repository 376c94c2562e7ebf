"""Hypothesis strategies that the parity tests share."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

Batch = list[list[int]]

_EDGES = (1, 2, 15, 16, 17, 31, 32, 33)


def batches(vocab: int, max_length: int = 33, frequent: Sequence[int] = ()) -> st.SearchStrategy[Batch]:
    """Ragged batches: one token, both sides of the smallest buckets, mixed lengths.

    Args:
        vocab: ids are below this.
        max_length: of one sequence.
        frequent: ids that shall occur often, such as a padding id inside an input.
    """
    edges = [length for length in _EDGES if length <= max_length]
    lengths = st.one_of(st.sampled_from(edges), st.integers(1, max_length))
    ids = st.integers(0, vocab - 1)
    if frequent:
        ids = st.one_of(ids, st.sampled_from(tuple(frequent)))
    one = lengths.flatmap(lambda n: st.lists(ids, min_size=n, max_size=n))
    return st.lists(one, min_size=1, max_size=5)
