"""The least time that a job can take on a device, from what it must compute and what it must move.

    floor = max(bytes / copy rate, flops / matrix rate)

Both rates are measured in the same run (stage ``machine``): bytes read and written by a device-to-device
copy, and a large matrix multiplication of the same dtype on random numbers. No version of the job is faster,
as long as its weights do not stay in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderShape:
    """What the multiplications of an encoder depend on."""

    layers: int = 12
    hidden: int = 768
    feed_forward: int = 3072

    @property
    def weights(self) -> int:
        """Numbers in the matrices of all layers: Q, K, V, output, up and down."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.feed_forward)


BERT_BASE = EncoderShape()


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a device."""

    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    """By dtype: ``bf16``, ``fp16``."""

    @classmethod
    def of(cls, machine: Mapping[str, Any] | None) -> Ceilings | None:
        """Those that stage ``machine`` found; None where it did not run."""
        if machine is None:
            return None
        found: Mapping[str, Any] = machine["ceilings"]
        return cls(found["bytes_per_s"], found["flops_per_s"])


def encoder_flops(shape: EncoderShape, lengths: Sequence[int]) -> float:
    """Of one packed batch: 2 for each weight and token; 4 * n^2 * hidden a layer for the scores of an input
    of n tokens and their product with the values."""
    linear = 2 * shape.weights * sum(lengths)
    return linear + 4 * shape.layers * shape.hidden * sum(length**2 for length in lengths)


def encoder_bytes(shape: EncoderShape, lengths: Sequence[int], itemsize: int = 2) -> float:
    """Every weight read once, and a row of embeddings for each token: a fully fused encoder moves no more."""
    return itemsize * (shape.weights + sum(lengths) * shape.hidden)


def attention_flops(lengths: Sequence[int], heads: int, head_dim: int) -> float:
    """Of one layer: 2 * n^2 * head_dim a head for the scores, as much for their product with the values."""
    return 4 * heads * head_dim * sum(length**2 for length in lengths)


def floor_s(ceilings: Ceilings | None, dtype: str, flops: float, moved: float) -> float | None:
    """Seconds; None where no ceiling was measured."""
    if ceilings is None or dtype not in ceilings.flops_per_s:
        return None
    return max(moved / ceilings.bytes_per_s, flops / ceilings.flops_per_s[dtype])


def encoder_floor_s(
    ceilings: Ceilings | None, dtype: str, shape: EncoderShape, lengths: Sequence[int]
) -> float | None:
    return floor_s(ceilings, dtype, encoder_flops(shape, lengths), encoder_bytes(shape, lengths))
