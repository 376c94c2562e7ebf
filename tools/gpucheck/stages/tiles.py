"""Attention with different tile sizes at common shapes, compared with torch's, to choose the defaults."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from precast.tools.gpucheck.clock import Clock, clock_of
from precast.tools.gpucheck.floors import Ceilings, attention_flops, floor_s
from precast.tools.gpucheck.rows import rounded
from precast.tools.gpucheck.stage import Report, Setting, Stage, keep
from precast.tools.gpucheck.stages.tile_kernels import HEAD_SIZES, TILES, TINY_TILES, Batch, TileSize


@dataclass(frozen=True)
class Point:
    """A batch with a number of tokens, in inputs of one length or of mixed lengths."""

    tokens: int
    length: int | None

    @property
    def name(self) -> str:
        """Name of the batch in the result."""
        return f"{self.tokens} tokens of {self.length or 'mixed lengths'}"

    def lengths(self) -> list[int]:
        if self.length is not None:
            return [self.length] * (self.tokens // self.length)
        random = np.random.default_rng(self.tokens)
        found: list[int] = []
        while (left := self.tokens - sum(found)) > 0:
            found.append(min(left, int(random.integers(8, 513))))
        return found


@dataclass(frozen=True)
class Sizes:
    points: tuple[Point, ...]
    tiles: tuple[TileSize, ...]
    rounds: int
    launches: int
    """Launches in one captured graph, which hide the launch overhead."""
    head_sizes: tuple[int, ...]
    hidden: int
    seconds: float
    """Seconds after which no further point starts."""


FULL = Sizes(
    points=(
        Point(128, 128), Point(1024, 128), Point(1024, 512), Point(4096, 128), Point(4096, 512),
        Point(4096, None), Point(8192, 384), Point(8192, None),
    ),
    tiles=TILES, rounds=7, launches=10, head_sizes=HEAD_SIZES, hidden=768, seconds=34,
)  # fmt: skip
TINY = Sizes((Point(16, 8), Point(24, None)), TINY_TILES, 2, 1, (16,), 32, 60)


def run(setting: Setting, part: str) -> Report:
    sizes, report, started = (TINY if setting.tiny else FULL), Report(), time.monotonic()
    clock, best = clock_of(setting.device), dict[str, list[tuple[str, float]]]()
    ceilings = Ceilings.of(setting.earlier.get("machine"))
    for point in sizes.points:
        for head_dim in sizes.head_sizes:
            if time.monotonic() - started > sizes.seconds:
                report.content.setdefault("not_measured", []).append(f"{point.name}, head size {head_dim}")
                continue
            found = measure(setting.device, clock, sizes, point, head_dim, ceilings)
            report.expect(bool(found["tiles"]), f"{point.name}, head size {head_dim}: no tile ran")
            report.content[f"{point.name}, head size {head_dim}"] = found
            least = min(found["tiles"].values(), default=1.0)
            best.setdefault(str(head_dim), []).extend((n, us / least) for n, us in found["tiles"].items())
            print(point.name, head_dim, {name: found[name] for name in ("best", "default_us", "torch_us")})
            keep(setting, report)
    report.content["overall"] = {head_dim: ranking(times) for head_dim, times in best.items()}
    print(report.content["overall"])
    return report


def measure(
    device: str, clock: Clock, sizes: Sizes, point: Point, head_dim: int, ceilings: Ceilings | None
) -> dict[str, Any]:
    """Return the microseconds of one attention layer by tile size, with the default, and of torch."""
    heads, lengths = sizes.hidden // head_dim, point.lengths()
    dtype = torch.float16 if device == "cpu" else torch.bfloat16
    batch = Batch.random(lengths, heads, head_dim, dtype, device)
    tiles: dict[str, float] = {}
    for tile in sizes.tiles:
        try:
            tiles[tile.name] = timed(clock, sizes, lambda: batch.attend(tile))  # noqa: B023 - called immediately
        except Exception as error:  # a tile may need more resources than the device has
            print(f"{tile.name} does not run: {type(error).__name__}")
    default = timed(clock, sizes, lambda: batch.attend(None))
    flops = attention_flops(lengths, heads, head_dim)
    moved = 4.0 * sum(lengths) * heads * head_dim * dtype.itemsize
    floor = floor_s(ceilings, "bf16", flops, moved)
    best = min(tiles, key=lambda name: tiles[name]) if tiles else None
    return {
        "tiles": tiles,
        "best": best,
        "default_us": default,
        "default_tflops": rounded(flops / default / 1e6),
        "best_tflops": rounded(flops / tiles[best] / 1e6) if best else None,
        "floor_us": None if floor is None else rounded(floor * 1e6),
        "torch_us": torch_attention(device, clock, sizes, point, batch, lengths),
    }


def timed(clock: Clock, sizes: Sizes, work: Callable[[], object]) -> float:
    """Return the microseconds of one call among back-to-back calls."""

    def many() -> None:
        for _ in range(sizes.launches):
            work()

    work()
    seconds = statistics.median(clock.device_seconds([clock.graph(many)], sizes.rounds))
    return rounded(seconds / sizes.launches * 1e6)


def torch_attention(
    device: str, clock: Clock, sizes: Sizes, point: Point, batch: Batch, lengths: list[int]
) -> dict[str, float]:
    """Return the microseconds of torch's ``varlen_attn`` on CUDA, and of SDPA for inputs of one length."""
    ways: dict[str, Callable[[], object]] = {}
    if device != "cpu":
        ways["varlen"] = _varlen(batch, lengths)
    if point.length is not None:
        ways["sdpa"] = _dense(batch, len(lengths), point.length)
    found = {}
    for name, way in ways.items():
        try:
            found[name] = timed(clock, sizes, way)
        except Exception as error:  # torch may be built without this kernel
            print(f"torch's {name} does not run: {type(error).__name__}: {str(error)[:200]}")
    return found


def _varlen(batch: Batch, lengths: list[int]) -> Callable[[], object]:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor.contiguous() for tensor in (batch.query, batch.key, batch.value))
    ends = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32, device=q.device)
    return lambda: varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))


def _dense(batch: Batch, inputs: int, length: int) -> Callable[[], object]:
    def heads_first(tensor: Tensor) -> Tensor:
        return tensor.reshape(inputs, length, *tensor.shape[1:]).transpose(1, 2).contiguous()

    q, k, v = (heads_first(tensor) for tensor in (batch.query, batch.key, batch.value))
    return lambda: F.scaled_dot_product_attention(q, k, v)


def ranking(times: list[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return the best tile sizes by their mean time relative to the best one at each point."""
    names = dict.fromkeys(name for name, _ in times)
    mean = {name: statistics.fmean(ratio for one, ratio in times if one == name) for name in names}
    best = sorted(mean, key=lambda name: mean[name])[:6]
    return [{"tile": name, "times_best": rounded(mean[name])} for name in best]


STAGE = Stage(
    "tiles",
    "the fastest tile sizes of attention at each shape, compared with torch",
    limit=45,
    run=run,
    after=("tile_kernels",),
    alone=True,
)
