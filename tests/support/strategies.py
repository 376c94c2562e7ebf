"""Hypothesis strategies for parity tests."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

Batch = list[list[int]]

_EDGES = (1, 2, 15, 16, 17, 31, 32, 33)


def batches(vocab: int, max_length: int = 33, frequent: Sequence[int] = ()) -> st.SearchStrategy[Batch]:
    """Ragged batches: single tokens, lengths on both sides of the smallest buckets, mixed lengths.

    Args:
        vocab: Token ids are below it.
        max_length: Most tokens of one sequence.
        frequent: Token ids to sample often, such as a padding id within an input.
    """
    edges = [length for length in _EDGES if length <= max_length]
    lengths = st.one_of(st.sampled_from(edges), st.integers(1, max_length))
    ids = st.integers(0, vocab - 1)
    if frequent:
        ids = st.one_of(ids, st.sampled_from(tuple(frequent)))
    sequences = lengths.flatmap(lambda length: st.lists(ids, min_size=length, max_size=length))
    return st.lists(sequences, min_size=1, max_size=5)
