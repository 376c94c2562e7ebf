"""Triton kernels of linear layers against plain torch, in Triton's interpreter: fp32 and fp16."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from precast.compiler.kernels.triton.cross_kv import project_cross_kv, project_reference
from precast.compiler.kernels.triton.layers import (
    MAX_COLUMNS,
    small_batch_linear,
    small_batch_linear_reference,
    with_small_batch_linear,
)
from precast.compiler.models.layers import ResidualLinear

DTYPES_HERE = st.sampled_from([torch.float32, torch.float16])
SIZES = st.sampled_from([1, 15, 16, 17, 64, 130])


def random_tensors(seed: int, dtype: torch.dtype, *sizes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, generator=generator) / size[-1] ** 0.5).to(dtype) for size in sizes]


def assert_close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-5 if found.dtype == torch.float32 else 5e-3
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 16) | st.just(17), inner=SIZES, columns=st.sampled_from([1, 15, 16, 17, 33, 100]),
    dtype=DTYPES_HERE, biased=st.booleans(), strided=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_small_batch_linear(
    rows: int, inner: int, columns: int, dtype: torch.dtype, biased: bool, strided: bool, seed: int
) -> None:
    wide, weight, bias = random_tensors(seed, dtype, (rows, 2 * inner), (columns, inner), (columns,))
    x = wide[:, :inner] if strided else wide[:, :inner].contiguous()
    given_bias = bias if biased else None
    assert_close(
        small_batch_linear(x, weight, given_bias), small_batch_linear_reference(x, weight, given_bias)
    )


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.sampled_from([1, 2, 63, 64, 65, 130]), inner=SIZES, heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 16, 20, 64]), dtype=DTYPES_HERE, biased=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_keys_and_values_are_written_to_their_slots(
    tokens: int, inner: int, heads: int, head_dim: int, dtype: torch.dtype, biased: bool, seed: int
) -> None:
    width = heads * head_dim
    hidden, weight, bias = random_tensors(seed, dtype, (tokens, inner), (2 * width, inner), (2 * width,))
    slots = torch.randperm(2 * tokens + 1, generator=torch.Generator().manual_seed(seed))[:tokens].int()
    kv_cache = torch.full((2, 2 * tokens + 1, heads, head_dim), torch.nan).to(dtype)
    expected = kv_cache.clone()
    given_bias = bias if biased else None
    project_cross_kv(hidden, weight, given_bias, kv_cache[0], kv_cache[1], slots)
    project_reference(hidden, weight, given_bias, expected[0], expected[1], slots)
    assert_close(kv_cache, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 9)}, "do not match"),
        ({"x": torch.zeros(2, 8, dtype=torch.float16)}, "share one of"),
        ({"x": torch.zeros(8, 2).T}, "last stride"),
        ({"weight": torch.zeros(8, 5).T}, "contiguous"),
        ({"bias": torch.zeros(4)}, "do not match"),
    ],
)
def test_other_linear_layers_are_rejected(change: dict[str, Tensor], message: str) -> None:
    good = {"x": torch.zeros(2, 8), "weight": torch.zeros(5, 8), "bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=message):
        small_batch_linear(**{**good, **change})


def test_small_batch_layers_share_their_parameters() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3, bias=False))
            self.added = ResidualLinear(3, 3)
            self.wide = nn.Linear(3, MAX_COLUMNS + 1)

        def forward(self, x: Tensor) -> Tensor:
            narrow = self.inner(x)
            return self.wide(self.added(narrow, residual=narrow) + self.added(narrow))

    plain = Layers().requires_grad_(False)
    replaced = with_small_batch_linear(plain)
    assert [*replaced.state_dict()] == [*plain.state_dict()]
    for name, parameter in replaced.named_parameters():
        assert parameter is plain.get_parameter(name)
    assert isinstance(plain.inner[0], nn.Linear) and not isinstance(replaced.inner[0], nn.Linear)
    assert isinstance(replaced.wide, nn.Linear), "wide layers keep the kernels for large products"
    x = torch.randn(3, 8)
    torch.testing.assert_close(replaced(x), plain(x))
