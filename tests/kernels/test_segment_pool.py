"""The pooling kernels against plain torch, in Triton's interpreter: fp32 and fp16."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precast.compiler.kernels.triton.segment_pool import (
    segment_max,
    segment_max_reference,
    segment_sum,
    segment_sum_reference,
)
from tests.kernels.batches import Batch, batches

DTYPES = [torch.float32, torch.float16]


def rows_of(batch: Batch, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A view of wider rows; spare rows and the columns outside the view are NaN."""
    rows = torch.randn(batch.tokens, columns + 3, generator=torch.Generator().manual_seed(seed))
    rows[batch.live :] = torch.nan
    rows[:, columns:] = torch.nan
    return rows.to(dtype)[:, :columns]


@settings(max_examples=60, deadline=None)
@given(
    batch=batches(),
    columns=st.sampled_from([1, 20, 64, 65, 130]),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_sums_agree_with_their_reference(
    batch: Batch, columns: int, dtype: torch.dtype, weighted: bool, seed: int
) -> None:
    rows = rows_of(batch, columns, dtype, seed)
    weight = torch.rand(batch.tokens) if weighted else None
    found = segment_sum(rows, *batch.segments(), weight)
    assert found.dtype == torch.float32
    exact = segment_sum_reference(rows.double(), *batch.segments(), weight)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    batch=batches(),
    columns=st.sampled_from([1, 20, 65]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_maxima_are_exact(batch: Batch, columns: int, dtype: torch.dtype, seed: int) -> None:
    rows = rows_of(batch, columns, dtype, seed) - 3
    found = segment_max(rows, *batch.segments())
    assert found.dtype == torch.float32
    assert torch.equal(found, segment_max_reference(rows, *batch.segments()))


def test_empty_segments_give_zero() -> None:
    batch = Batch((0, 3, 0, 40, 0), 2, None, None)
    rows = rows_of(batch, 20, torch.float32) - 10
    empty = torch.tensor(batch.lengths) == 0
    for found in (segment_sum(rows, *batch.segments(), None), segment_max(rows, *batch.segments())):
        assert (found[empty] == 0).all() and (found[~empty] < 0).any(1).all()


def test_a_nan_of_the_segment_propagates() -> None:
    batch = Batch((5, 70), 0, None, None)
    rows = rows_of(batch, 20, torch.float32)
    rows[50, 7] = torch.nan
    expected = torch.zeros(2, 20, dtype=torch.bool)
    expected[1, 7] = True
    for found in (segment_sum(rows, *batch.segments(), None), segment_max(rows, *batch.segments())):
        assert torch.equal(found.isnan(), expected)


def test_segments_may_overlap_and_leave_gaps() -> None:
    rows = torch.randn(50, 20)
    begin = torch.tensor([0, 10, 45], dtype=torch.int32)
    end = torch.tensor([20, 40, 50], dtype=torch.int32)
    torch.testing.assert_close(
        segment_sum(rows, begin, end, None), segment_sum_reference(rows, begin, end, None)
    )
    assert torch.equal(segment_max(rows, begin, end), segment_max_reference(rows, begin, end))


def test_rejects_unsupported_arguments() -> None:
    rows, bounds = torch.randn(8, 4), torch.zeros(2, dtype=torch.int32)
    with pytest.raises(ValueError, match="last stride"):
        segment_sum(rows.T, bounds, bounds, None)
    with pytest.raises(ValueError, match="floating"):
        segment_max(rows.int(), bounds, bounds)
    with pytest.raises(ValueError, match="int32"):
        segment_max(rows, bounds.long(), bounds)
    with pytest.raises(ValueError, match="fp32"):
        segment_sum(rows, bounds, bounds, rows[:, 0].double())
