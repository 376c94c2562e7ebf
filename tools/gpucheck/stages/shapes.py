"""The batches that are timed, with aims and published figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from precast.tools.gpucheck.rows import Published

TENSORRT = "TensorRT 8.4, fp16, A100"


@dataclass(frozen=True)
class Shape:
    """A batch of inputs of one length, in tokens."""

    inputs: int
    length: int
    aim_ms: float | None = None
    published: Published | None = None

    @property
    def name(self) -> str:
        """Name of the shape, such as ``8x128``."""
        return f"{self.inputs}x{self.length}"

    @property
    def lengths(self) -> list[int]:
        """Length of each input."""
        return [self.length] * self.inputs

    def ids(self, random: np.random.Generator, vocab: int) -> np.ndarray:
        """Return random token ids, int64 ``[inputs, length]``."""
        return random.integers(0, vocab, size=(self.inputs, self.length), dtype=np.int64)


SHAPES = (
    Shape(1, 128, 0.30, Published(0.67, TENSORRT)),
    Shape(8, 128, 0.55, Published(1.38, TENSORRT)),
    Shape(32, 128, 1.4, Published(4.10, TENSORRT)),
    Shape(32, 384, 4.5, Published(13.5, TENSORRT)),
)
TINY_SHAPES = (Shape(1, 8, 0.3), Shape(2, 8), Shape(3, 8), Shape(3, 12))
