"""The attention kernel with every tile size that stage ``tiles`` measures: it compiles and is correct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from precast.tools.gpucheck.cases.case import ALLOWED, poisoned
from precast.tools.gpucheck.cases.packed_attention import ranges
from precast.tools.gpucheck.stage import Report, Setting, Stage

HEAD_SIZES = (64, 128)


@dataclass(frozen=True)
class TileSize:
    """A tile size, like ``packed_attention.Tile``, whose module needs Triton."""

    queries: int
    keys: int
    warps: int
    stages: int

    @property
    def name(self) -> str:
        return f"{self.queries}x{self.keys}, {self.warps} warps, {self.stages} stages"


TILES = tuple(
    TileSize(*numbers)
    for numbers in (
        (32, 32, 4, 3), (32, 64, 4, 3), (64, 32, 4, 2), (64, 32, 4, 3), (64, 32, 4, 4), (64, 64, 4, 2),
        (64, 64, 4, 3), (64, 64, 4, 4), (64, 128, 4, 2), (64, 128, 4, 3), (128, 32, 4, 3), (128, 32, 8, 3),
        (128, 64, 4, 2), (128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2),
        (128, 128, 8, 3),
    )
)  # fmt: skip
TINY_TILES = (TileSize(16, 16, 4, 1), TileSize(32, 16, 4, 1))


@dataclass(frozen=True)
class Batch:
    """Random inputs of one attention layer."""

    query: Tensor
    key: Tensor
    value: Tensor
    begin: Tensor
    end: Tensor
    scale: float

    @classmethod
    def random(cls, lengths: list[int], heads: int, head_dim: int, dtype: torch.dtype, device: str) -> Batch:
        """Return random inputs, which are views of one projection as in a model."""
        rows = torch.randn(sum(lengths), 3 * heads, head_dim, device=device).to(dtype)
        begin, end = ranges(lengths, 0, (None, None), device)
        q, k, v = rows.split(heads, dim=1)
        return cls(q, k, v, begin, end, head_dim**-0.5)

    def attend(self, tile: TileSize | None) -> Tensor:
        """Run the kernel with a tile size, or with its default."""
        from precast.compiler.kernels.triton import packed_attention as kernels

        packed_tile = None if tile is None else kernels.Tile(tile.queries, tile.keys, tile.warps, tile.stages)
        return kernels.launch_packed_attention(
            self.query, self.key, self.value, self.begin, self.end, None, self.scale, packed_tile
        )

    def reference(self) -> Tensor:
        """Return the reference output in fp64."""
        from precast.compiler.kernels.triton import packed_attention as kernels

        q, k, v = self.query.double(), self.key.double(), self.value.double()
        return kernels.packed_attention_reference(q, k, v, self.begin, self.end, None, self.scale)


def run(setting: Setting, part: str) -> Report:
    report, works = Report(), []
    dtype = torch.float16 if setting.device == "cpu" else torch.bfloat16
    lengths = [16, 5, 11] if setting.tiny else [128, 384, 200, 312]
    batch = Batch.random(lengths, 2, 16 if setting.tiny else int(part), dtype, setting.device)
    expected = batch.reference()
    for tile in TINY_TILES if setting.tiny else TILES:
        try:
            with poisoned():
                found = batch.attend(tile)
        except Exception as error:  # a tile may need more registers or shared memory than the device has
            print(f"{tile.name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        difference = torch.linalg.vector_norm(found.double() - expected)
        apart = float(difference / torch.linalg.vector_norm(expected))
        right = math.isfinite(apart) and apart <= ALLOWED[dtype]
        report.expect(right, f"head size {part}, tile {tile.name}: error {apart:.2e}")
        if right:
            works.append(tile.name)
    report.content = {"tiles": works}
    return report


STAGE = Stage(
    "tile_kernels",
    "attention is correct with every tile size that is measured",
    limit=200,
    run=run,
    parts=tuple(map(str, HEAD_SIZES)),
    after=("machine",),
)
