"""Lower bounds for the time of a workload on a device (roofline model).

    floor = max(bytes / copy rate, flops / matrix rate)

Both rates are measured in the same run (stage ``machine``): bytes read and written by a copy on the device,
and a large matrix multiplication of the same dtype on random numbers. No implementation is faster, unless
weights stay in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderShape:
    """The sizes on which the matrix multiplications of an encoder depend."""

    layers: int = 12
    hidden: int = 768
    feed_forward: int = 3072

    @property
    def weights(self) -> int:
        """Number of weights in the matrices of all layers: Q, K, V, output, up and down."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.feed_forward)


BERT_BASE = EncoderShape()


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a device."""

    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    """Matrix multiplication rate by dtype: ``bf16``, ``fp16``."""

    @classmethod
    def of(cls, machine: Mapping[str, Any] | None) -> Ceilings | None:
        """Return the rates measured by stage ``machine``; None if it did not run."""
        if machine is None:
            return None
        ceilings: Mapping[str, Any] = machine["ceilings"]
        return cls(ceilings["bytes_per_s"], ceilings["flops_per_s"])


def encoder_flops(shape: EncoderShape, lengths: Sequence[int]) -> float:
    """Return the FLOPs of one packed batch.

    They are 2 per weight and token, and per layer ``4 * n**2 * hidden`` for the attention of an input of n
    tokens.
    """
    linear = 2 * shape.weights * sum(lengths)
    return linear + 4 * shape.layers * shape.hidden * sum(length**2 for length in lengths)


def encoder_bytes(shape: EncoderShape, lengths: Sequence[int], itemsize: int = 2) -> float:
    """Return the bytes that a fully fused encoder moves: each weight once, and one embedding per token."""
    return itemsize * (shape.weights + sum(lengths) * shape.hidden)


def attention_flops(lengths: Sequence[int], heads: int, head_dim: int) -> float:
    """Return the FLOPs of one attention layer.

    They are ``2 * n**2 * head_dim`` per head for the scores, and the same for their product with the values.
    """
    return 4 * heads * head_dim * sum(length**2 for length in lengths)


def floor_s(ceilings: Ceilings | None, dtype: str, flops: float, moved: float) -> float | None:
    """Return the lower bound in seconds; None if the rates were not measured."""
    if ceilings is None or dtype not in ceilings.flops_per_s:
        return None
    return max(moved / ceilings.bytes_per_s, flops / ceilings.flops_per_s[dtype])


def encoder_floor_s(
    ceilings: Ceilings | None, dtype: str, shape: EncoderShape, lengths: Sequence[int]
) -> float | None:
    """Return the lower bound of one packed batch in seconds; None if the rates were not measured."""
    return floor_s(ceilings, dtype, encoder_flops(shape, lengths), encoder_bytes(shape, lengths))
