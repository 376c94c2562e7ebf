"""The memory of the self and cross pools: how large they are, and their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from precast.graphs.seq2seq import MAX_PLACES, GenerateLimits, PoolShape
from precast.graphs.signature import DTYPES
from precast.runtime.errors import OptionError
from precast.runtime.cpu.buffers import zeros

PAGE_SIZE = 16
"""Places of a page: what a request takes more than it needs is half of this on average."""
DEFAULT_BYTES = 1 << 30
"""Of both pools together, unless everything that the limits allow takes less."""


@dataclass(frozen=True)
class PoolSizes:
    """Pages of either pool, the one that is never dealt out not counted."""

    own: int
    cross: int


def place_bytes(shape: PoolShape) -> int:
    """Memory of one place: keys and values in all layers."""
    return 2 * shape.layers * shape.heads * shape.head_dim * DTYPES[shape.dtype].itemsize


def pool_sizes(
    limits: GenerateLimits,
    own: PoolShape,
    cross: PoolShape,
    kv_cache_bytes: int | None,
    cross_fraction: float | None,
    at_most: int | None = None,
) -> PoolSizes:
    """How many pages fit a byte budget.

    Args:
        limits: of the artifact.
        own: what a place of the self pools holds.
        cross: what a place of the cross pools holds.
        kv_cache_bytes: of both pools; where left out, what it takes for all rows to reach the longest target
            from a longest source each, but at most ``at_most``.
        cross_fraction: the cross pools' share; where left out, as the longest request's.
        at_most: bytes; ``DEFAULT_BYTES`` where left out, or one request, if that needs more.

    Raises:
        OptionError: the budget does not hold one request of the longest source and target.
    """
    page = {"own": PAGE_SIZE * place_bytes(own), "cross": PAGE_SIZE * place_bytes(cross)}
    one = {"own": _pages(limits.max_target_length), "cross": _pages(limits.max_source_length)}
    longest = sum(one[kind] * page[kind] for kind in one)
    most = max(longest, DEFAULT_BYTES) if at_most is None else at_most
    budget = kv_cache_bytes or min(most, limits.max_rows * longest)
    share = one["cross"] * page["cross"] / longest if cross_fraction is None else cross_fraction
    # The division may fall a hair short of a whole page.
    pages = PoolSizes(
        own=int(budget * (1 - share) / page["own"] + 1e-6), cross=int(budget * share / page["cross"] + 1e-6)
    )
    if pages.own < one["own"] or pages.cross < one["cross"]:
        raise OptionError(
            f"kv_cache_bytes {budget} with cross_fraction {share:.2f} gives {pages.own} pages of {PAGE_SIZE} "
            f"tokens to targets and {pages.cross} to sources; one request of {limits.max_target_length} "
            f"target and {limits.max_source_length} source tokens needs {one['own']} and {one['cross']} "
            f"({longest} bytes)"
        )
    largest = MAX_PLACES // PAGE_SIZE - 1
    return PoolSizes(min(pages.own, largest), min(pages.cross, largest))


def pool_tensors(kind: str, shape: PoolShape, pages: int) -> Mapping[str, Tensor]:
    """The tensors of the pools of one kind, zeros: zero times what is no number would be none either.

    Args:
        kind: ``self`` or ``cross``.
        shape: of a place.
        pages: with the one that is never dealt out.
    """
    size = (pages * PAGE_SIZE, shape.heads, shape.head_dim)
    return {name: zeros(size, DTYPES[shape.dtype]) for name in shape.names(kind)}


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE)
