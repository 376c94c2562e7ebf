"""The ``encode`` graph: what every encoder takes and gives, for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precast.graphs.buckets import Buckets
from precast.graphs.errors import LimitsError
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Axis, Buffer, Signature

Task = Literal["embed", "classify", "rerank", "token-classify", "hidden", "generate"]
Device = Literal["cpu", "cuda"]
"""The kind of device that a graph was lowered for."""
Dtype = Literal["fp32", "bf16", "fp16"]
"""What weights are stored and computed in; fp16 on CUDA alone."""
Quantization = Literal["int8"]
"""What weights of linear layers are rounded to: int8 also rounds what they are multiplied with."""

TOKENS = "tokens"
SEQUENCES = "sequences"
LENGTH = "length"

MAX_TOKENS = 1 << 24
"""Of a packed batch. Static buffers are allocated at their largest sizes when an artifact is loaded, and
positions are 32-bit numbers."""
MAX_BATCH = 1 << 20
BATCH_TOKENS = 2048
"""Tokens of a batch on a CPU, unless an engine is told otherwise: enough to keep the matrix units busy, few
enough for the caches."""
CAPTURED_TOKENS = 8192
"""The largest bucket of a CUDA buckets. A batch beyond it should keep the device busy for longer than its
launches take, so it is called directly and pays for no spare tokens."""


@dataclass(frozen=True)
class EncodeLimits:
    """The largest request, batch and packed batch that an artifact serves."""

    max_length: int
    """Tokens of one input."""
    max_tokens: int
    """Tokens of a packed batch."""
    max_batch: int
    """Inputs of a packed batch."""

    def __post_init__(self) -> None:
        if not 0 < self.max_length <= self.max_tokens <= MAX_TOKENS or not 0 < self.max_batch <= MAX_BATCH:
            raise LimitsError(
                f"limits need 0 < max_length <= max_tokens <= {MAX_TOKENS} and "
                f"0 < max_batch <= {MAX_BATCH}, found {self}"
            )

    @property
    def max_input_length(self) -> int:
        return self.max_length

    def buckets(self, device: Device) -> Buckets:
        return token_buckets(self.max_tokens, device)


def token_buckets(max_tokens: int, device: Device) -> Buckets:
    """The buckets of packed tokens; on CUDA each is one captured graph."""
    if device == "cuda":
        return Buckets.doubling(TOKENS, min(CAPTURED_TOKENS, max_tokens), steps=2)
    return Buckets.doubling(TOKENS, max_tokens)


@dataclass(frozen=True)
class EncodeOutput:
    """The one tensor that ``encode`` answers with."""

    name: Literal["embedding", "logits", "hidden"]
    size: int
    per_token: bool


def encode_output(task: Task, size: int) -> EncodeOutput:
    """Which tensor a task answers with; ``size`` is its last dimension."""
    if task == "embed":
        return EncodeOutput("embedding", size, per_token=False)
    if task in ("classify", "rerank"):
        return EncodeOutput("logits", size, per_token=False)
    if task == "token-classify":
        return EncodeOutput("logits", size, per_token=True)
    return EncodeOutput("hidden", size, per_token=True)


def encode_signature(
    limits: EncodeLimits, output: EncodeOutput, *, device: Device, token_types: bool, prompt_lengths: bool
) -> Signature:
    """Named buffers of a packed batch.

    ``input_ids`` and ``token_type_ids`` are ``[tokens]``: the inputs one after another, then spare
    tokens. ``cu_seqlens`` is ``[sequences + 1]``: where each input starts and, last, where the last
    one ends; a spare sequence starts where it ends. ``prompt_lengths`` is ``[sequences]``: leading
    tokens that pooling leaves out. ``key_positions``, on a CPU alone, is ``0 .. length - 1`` for the
    longest input: plain-torch attention needs that size as a dimension, our kernels do not.
    """
    inputs = [Buffer("input_ids", "int32", (TOKENS,))]
    if token_types:
        inputs.append(Buffer("token_type_ids", "int32", (TOKENS,)))
    inputs.append(Buffer("cu_seqlens", "int32", (f"{SEQUENCES}+1",)))
    axes = [Axis(TOKENS, 2, max(2, limits.max_tokens)), Axis(SEQUENCES, 2, max(2, limits.max_batch))]
    if device == "cpu":
        inputs.append(Buffer("key_positions", "int32", (LENGTH,)))
        axes.append(Axis(LENGTH, 2, max(2, limits.max_length)))
    if prompt_lengths:
        inputs.append(Buffer("prompt_lengths", "int32", (SEQUENCES,)))
    rows = TOKENS if output.per_token else SEQUENCES
    return Signature(
        graph=GraphName.ENCODE,
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=(Buffer(output.name, "float32", (rows, output.size)),),
        written=(),
    )
