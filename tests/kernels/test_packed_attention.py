"""The packed attention kernel against plain torch, in Triton's interpreter: fp32 and fp16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from precast.compiler.kernels.triton.packed_attention import (
    Tile,
    launch_packed_attention,
    packed_attention,
    packed_attention_reference,
    tile_for,
)
from tests.kernels.batches import Attention, Batch, attentions

# Queries of spare tokens are NaN on purpose; their results are discarded.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice")

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}

TILES = [Tile(16, 16, 1, 1), Tile(16, 32, 1, 1), Tile(32, 16, 1, 1)]
"""Small tiles, so that short inputs cross many tile borders."""


def exact(arguments: tuple[Any, ...]) -> torch.Tensor:
    query, key, value, begin, end, bias, scale = arguments
    return packed_attention_reference(query.double(), key.double(), value.double(), begin, end, bias, scale)


def assert_agrees(case: Attention, tile: Tile | None) -> None:
    arguments = case.arguments()
    found = launch_packed_attention(*arguments, tile=tile)
    assert found.dtype == case.dtype and found.is_contiguous()
    assert not found.isnan().any()
    assert (found[case.batch.live :] == 0).all()
    tolerance = TOLERANCE[case.dtype]
    torch.testing.assert_close(found.double(), exact(arguments), atol=tolerance, rtol=tolerance)


def attention(batch: Batch, **changes: Any) -> Attention:
    base: dict[str, Any] = {
        "head_dim": 16,
        "kv_heads": 1,
        "group": 1,
        "max_distance": None,
        "scale": 0.25,
        "dtype": torch.float32,
        "seed": 0,
    }
    return Attention(batch, **(base | changes))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=attentions(), tile=st.sampled_from(TILES))
@example(case=attention(Batch((1,), 0, None, None)), tile=TILES[0])
@example(case=attention(Batch((64, 0, 64), 64, None, None), head_dim=32), tile=TILES[0])
@example(case=attention(Batch((150,), 3, None, None), max_distance=7, head_dim=48), tile=TILES[0])
@example(case=attention(Batch((150,), 3, None, None), max_distance=31), tile=TILES[1])
@example(case=attention(Batch((150,), 3, 20, 20), max_distance=31), tile=TILES[2])
def test_agrees_with_its_reference(case: Attention, tile: Tile) -> None:
    assert_agrees(case, tile)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=attentions())
def test_agrees_with_production_tiles(case: Attention) -> None:
    assert_agrees(case, None)


@pytest.mark.parametrize("head_dim", [128, 200, 256])
def test_large_heads(head_dim: int) -> None:
    for dtype in TOLERANCE:
        assert_agrees(attention(Batch((40, 33), 5, None, 0), head_dim=head_dim, dtype=dtype), None)


def test_a_row_without_keys_between_rows_with_keys_is_zero() -> None:
    case = attention(Batch((50,), 0, None, None))
    query, key, value, begin, end, bias, scale = case.arguments()
    begin, end = begin.clone(), end.clone()
    begin[20:30], end[20:30] = 0, 0
    begin[35], end[35] = 49, 3
    arguments = (query, key, value, begin, end, bias, scale)
    for tile in TILES:
        found = launch_packed_attention(*arguments, tile=tile)
        assert (found[20:30] == 0).all() and (found[35] == 0).all()
        torch.testing.assert_close(found.double(), exact(arguments), atol=2e-5, rtol=2e-5)


def test_ranges_need_not_be_monotone() -> None:
    query, key, value, *_ = attention(Batch((70,), 0, None, None)).arguments()
    generator = torch.Generator().manual_seed(1)
    begin = torch.randint(0, 60, (70,), generator=generator, dtype=torch.int32)
    end = (begin + torch.randint(0, 30, (70,), generator=generator, dtype=torch.int32)).clamp(max=70)
    arguments = (query, key, value, begin, end, None, 0.5)
    for tile in TILES:
        found = launch_packed_attention(*arguments, tile=tile)
        torch.testing.assert_close(found.double(), exact(arguments), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("tile", TILES[:2], ids=str)
def test_the_bias_is_exact_at_every_max_distance(tile: Tile) -> None:
    """Blocks beyond the range of the bias use a single value; their borders must be exact to the token."""
    for max_distance in range(17):
        assert_agrees(attention(Batch((81,), 0, None, None), head_dim=1, max_distance=max_distance), tile)


def test_scores_far_from_zero_stay_finite() -> None:
    query, key, value, begin, end, _, _ = attention(Batch((40,), 0, None, None)).arguments()
    for factor in (1e4, -1e4):
        arguments = (query * factor, key.abs(), value, begin, end, None, 1.0)
        found = launch_packed_attention(*arguments, tile=TILES[0])
        torch.testing.assert_close(found.double(), exact(arguments), atol=1e-3, rtol=1e-3)


def test_exports_and_runs_as_exported() -> None:
    class Layer(torch.nn.Module):
        def forward(self, fused: torch.Tensor, begin: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
            query, key, value = fused.unflatten(1, (3, 2, 16)).unbind(1)
            return packed_attention(query, key, value, begin, end, None, 0.25)

    def inputs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.randn(batch.tokens, 96), *batch.visible()

    tokens = torch.export.Dim("tokens", min=2, max=1024)
    first = inputs(Batch((5, 7), 4, None, None))
    exported = torch.export.export(Layer(), first, dynamic_shapes=({0: tokens},) * 3)
    assert torch.ops.precast.packed_attention.default in {node.target for node in exported.graph.nodes}
    other = inputs(Batch((20, 0, 3), 1, None, 0))
    torch.testing.assert_close(exported.module()(*other), Layer()(*other))


def _replaced(**changes: Callable[[Any], Any]) -> dict[str, Any]:
    names = ("query", "key", "value", "begin", "end", "bias", "scale")
    arguments = dict(
        zip(names, attention(Batch((8,), 0, None, None), group=2, max_distance=3).arguments(), strict=True)
    )
    return arguments | {name: change(arguments[name]) for name, change in changes.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": lambda key: key.half()}, "share one of"),
        ({name: lambda rows: rows.double() for name in ("query", "key", "value")}, "share one of"),
        ({name: lambda rows: rows.repeat(1, 1, 17) for name in ("query", "key", "value")}, "1 to 256"),
        ({name: lambda rows: rows.repeat(1, 3, 1) for name in ("key", "value")}, "do not match"),
        ({"value": lambda value: value[:-1]}, "do not match"),
        ({"key": lambda key: key.repeat(1, 1, 2)[:, :, ::2]}, "last stride"),
        ({"begin": lambda begin: begin.long()}, "int32"),
        ({"end": lambda end: end[:-1]}, "int32"),
        ({"bias": lambda bias: bias.half()}, "bias must be fp32"),
        ({"bias": lambda bias: bias[:, :-1]}, "bias must be fp32"),
        ({"bias": lambda bias: bias[:1]}, "bias must be fp32"),
        ({"scale": lambda scale: 0.0}, "positive"),
    ],
)
def test_rejects_unsupported_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed_attention(**_replaced(**changes))


def test_every_width_has_a_tile_of_powers_of_two() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for width in (16, 32, 64, 128, 256):
            for biased in (False, True):
                tile = tile_for(dtype, width, biased)
                for size in (tile.queries, tile.keys):
                    assert size >= 16 and size & (size - 1) == 0
