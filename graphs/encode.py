"""The ``encode`` graph: limits, buckets, inputs and outputs of an encoder, for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precast.graphs.buckets import Buckets
from precast.graphs.errors import LimitsError
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Axis, Buffer, Signature

Task = Literal["embed", "classify", "rerank", "token-classify", "hidden", "generate"]
Device = Literal["cpu", "cuda"]
"""The kind of device that a graph is lowered for."""
Dtype = Literal["fp32", "bf16", "fp16"]
"""The dtype in which weights are stored and used; fp16 is for CUDA only."""
Quantization = Literal["int8"]
"""The type to which weights of linear layers are quantized; ``int8`` also quantizes their activations."""

TOKENS = "tokens"
SEQUENCES = "sequences"
LENGTH = "length"

MAX_TOKENS = 1 << 24
"""Upper limit of tokens in a packed batch: static buffers are allocated at their largest sizes when an
artifact is loaded, and positions are 32-bit numbers."""
MAX_BATCH = 1 << 20
"""Upper limit of sequences in a packed batch."""
BATCH_TOKENS = 2048
"""Default number of tokens in a batch on a CPU: enough to keep the matrix units busy, few enough for the
caches."""
CAPTURED_TOKENS = 8192
"""The largest bucket on CUDA. A larger batch should keep the device busy for longer than its launches take,
so it is launched directly and needs no spare tokens."""


@dataclass(frozen=True)
class EncodeLimits:
    """The largest input and the largest packed batch that an artifact serves."""

    max_length: int
    """Maximum number of tokens in one input."""
    max_tokens: int
    """Maximum number of tokens in a packed batch."""
    max_batch: int
    """Maximum number of inputs in a packed batch."""

    def __post_init__(self) -> None:
        if not 0 < self.max_length <= self.max_tokens <= MAX_TOKENS or not 0 < self.max_batch <= MAX_BATCH:
            raise LimitsError(
                f"limits need 0 < max_length <= max_tokens <= {MAX_TOKENS} and "
                f"0 < max_batch <= {MAX_BATCH}, found {self}"
            )

    @property
    def max_input_length(self) -> int:
        """Maximum number of tokens in one input, by the name that all kinds of limits have."""
        return self.max_length

    def buckets(self, device: Device) -> Buckets:
        """Return the default buckets of ``encode`` on a device."""
        return token_buckets(self.max_tokens, device)


def token_buckets(max_tokens: int, device: Device) -> Buckets:
    """Return the default buckets of packed tokens; on CUDA a graph is captured for each."""
    if device == "cuda":
        return Buckets.doubling(TOKENS, min(CAPTURED_TOKENS, max_tokens), steps=2)
    return Buckets.doubling(TOKENS, max_tokens)


@dataclass(frozen=True)
class EncodeOutput:
    """The one tensor that ``encode`` returns."""

    name: Literal["embedding", "logits", "hidden"]
    size: int
    """The last dimension."""
    per_token: bool
    """Whether the first dimension is ``tokens``; otherwise it is ``sequences``."""


def encode_output(task: Task, size: int) -> EncodeOutput:
    """Return the output of ``encode`` for a task; ``size`` is its last dimension."""
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
    """Return the signature of ``encode``: the named buffers of a packed batch.

    ``input_ids`` and ``token_type_ids`` are int32 ``[tokens]``: the inputs one after another, then spare
    tokens. ``cu_seqlens`` is int32 ``[sequences + 1]``: the offset of each input and, last, the end of the
    last one; a spare sequence is empty. ``prompt_lengths`` is int32 ``[sequences]``: the number of leading
    tokens that pooling ignores. ``key_positions``, on CPUs only, is int32 ``[length]``, counting from 0 for
    the longest input: attention in plain torch needs that size as a dimension, custom kernels do not.

    Args:
        limits: The limits of the artifact.
        output: The tensor that the graph returns.
        device: The device that the graph is lowered for.
        token_types: Whether the model takes token types.
        prompt_lengths: Whether pooling ignores prompts.
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
    axis = TOKENS if output.per_token else SEQUENCES
    return Signature(
        graph=GraphName.ENCODE,
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=(Buffer(output.name, "float32", (axis, output.size)),),
        written=(),
    )
