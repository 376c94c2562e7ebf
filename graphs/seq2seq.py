"""The graphs of an encoder-decoder with weights, ``encode_source`` and ``decode``, and their KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from precast.graphs.encode import LENGTH, MAX_BATCH, MAX_TOKENS, SEQUENCES, TOKENS, Device
from precast.graphs.errors import LimitsError
from precast.graphs.graph_names import GraphName
from precast.graphs.signature import Axis, Buffer, Signature

NUM_SEQS = "num_seqs"
SELF_CACHE = "self_cache"
CROSS_CACHE = "cross_cache"
SELF_LENGTH = "self_length"
SOURCE_LENGTH = "source_length"

MAX_NUM_SEQS = "max_num_seqs"
MAX_TARGET_LENGTH = "max_target_length"
MAX_SOURCE_LENGTH = "max_source_length"
"""Axes of the decoder state. Their sizes are the limits of the artifact."""

SOURCE_BATCH_TOKENS = 1024
"""Default number of source tokens that are encoded in one batch."""
MAX_SLOTS = 1 << 27
"""Most slots of a KV cache, which are numbered in 32 bits; a slot holds one token's keys and values."""


@dataclass(frozen=True)
class GenerateLimits:
    """The largest request, batch of sources and decoding step of an artifact."""

    max_source_length: int
    """Tokens of one source."""
    max_target_length: int
    """Tokens of one target: start token, prefix and generated tokens."""
    max_tokens: int
    """Source tokens that are encoded in one batch."""
    max_batch: int
    """Sources that are encoded in one batch."""
    max_num_seqs: int
    """Sequences of decoder state; a request has one for each of its beams or samples."""

    def __post_init__(self) -> None:
        if not (
            0 < self.max_source_length <= self.max_tokens <= MAX_TOKENS
            and 1 < self.max_target_length <= MAX_TOKENS
            and 0 < self.max_batch <= MAX_BATCH
            and 0 < self.max_num_seqs <= MAX_BATCH
        ):
            raise LimitsError(
                f"limits need 0 < max_source_length <= max_tokens <= {MAX_TOKENS}, 1 < max_target_length "
                f"<= {MAX_TOKENS}, 0 < max_batch <= {MAX_BATCH} and 0 < max_num_seqs <= {MAX_BATCH}, "
                f"found {self}"
            )

    @property
    def state_sizes(self) -> dict[str, int]:
        """Sizes of the axes of the decoder state; sizes below 2 are constants to a traced graph."""
        return {
            MAX_NUM_SEQS: max(2, self.max_num_seqs),
            MAX_TARGET_LENGTH: self.max_target_length,
            MAX_SOURCE_LENGTH: max(2, self.max_source_length),
        }

    @property
    def max_input_length(self) -> int:
        return self.max_source_length


@dataclass(frozen=True)
class KVCacheShape:
    """Shape of a KV cache slot: keys and values of one token in every decoder layer."""

    layers: int
    heads: int
    head_dim: int
    dtype: str

    def names(self, kind: str) -> list[str]:
        """Return ``self_key_0``, ``self_value_0``, ``self_key_1``, ..."""
        return [f"{kind}_{part}_{layer}" for layer in range(self.layers) for part in ("key", "value")]

    def buffers(self, kind: str, axis: str) -> list[Buffer]:
        """Return one buffer per layer and part: a stacked cache would be copied as a whole in every step."""
        return [
            Buffer(name, self.dtype, (axis, self.heads, self.head_dim), "kv_cache")
            for name in self.names(kind)
        ]


def encode_source_signature(
    limits: GenerateLimits, cross_kv: KVCacheShape, hidden_size: int, *, device: Device
) -> Signature:
    """Return the signature of ``encode_source``: source tokens to keys and values in the cross-attention KV
    cache.

    ``input_ids``, ``cu_seqlens`` and ``key_positions`` are those of ``encode``. ``cross_slots`` ``[tokens]``
    is the slot of each token; padding tokens go to the spare block. The KV cache is written in place. The
    output is the encoder's hidden states.
    """
    inputs = [
        Buffer("input_ids", "int32", (TOKENS,)),
        Buffer("cu_seqlens", "int32", (f"{SEQUENCES}+1",)),
        Buffer("cross_slots", "int32", (TOKENS,)),
    ]
    axes = [Axis(TOKENS, 2, max(2, limits.max_tokens)), Axis(SEQUENCES, 2, max(2, limits.max_batch))]
    if device == "cpu":
        inputs.append(Buffer("key_positions", "int32", (LENGTH,)))
        axes.append(Axis(LENGTH, 2, max(2, limits.max_source_length)))
    return Signature(
        graph=GraphName.ENCODE_SOURCE,
        axes=(*axes, Axis(CROSS_CACHE, 2, MAX_SLOTS)),
        inputs=(*inputs, *cross_kv.buffers("cross", CROSS_CACHE)),
        outputs=(Buffer("hidden", "float32", (TOKENS, hidden_size)),),
        written=tuple(cross_kv.names("cross")),
    )


def decode_signature(
    limits: GenerateLimits, self_kv: KVCacheShape, cross_kv: KVCacheShape, vocab_size: int, *, device: Device
) -> Signature:
    """Return the signature of ``decode``: the last token of every active sequence to the logits of the next
    one.

    ``seq_ids`` are the active sequences of the state; the last one may be repeated as padding, and kernels
    may compute it once. ``tokens``, ``positions`` and ``cross_lengths`` are ``[max_num_seqs]``. ``kv_slots``
    ``[max_num_seqs, max_target_length]`` is the self-attention slot of each position; the step writes to the
    one at a sequence's own position. ``cross_slots`` is ``[max_num_seqs, max_source_length]``. On a CPU the
    sizes of ``self_span`` and ``cross_span`` (from 0) say how far to read: up to the longest target and
    source.
    """
    num_seqs, target, source = limits.state_sizes.values()
    inputs = [
        Buffer("seq_ids", "int32", (NUM_SEQS,)),
        Buffer("tokens", "int32", (num_seqs,), "state"),
        Buffer("positions", "int32", (num_seqs,), "state"),
        Buffer("kv_slots", "int32", (num_seqs, target), "state"),
        Buffer("cross_slots", "int32", (num_seqs, source), "state"),
        Buffer("cross_lengths", "int32", (num_seqs,), "state"),
    ]
    axes = [Axis(NUM_SEQS, 2, num_seqs), Axis(SELF_CACHE, 2, MAX_SLOTS), Axis(CROSS_CACHE, 2, MAX_SLOTS)]
    if device == "cpu":
        inputs += [
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
            Buffer("cross_span", "int32", (SOURCE_LENGTH,), "span"),
        ]
        axes += [
            Axis(SELF_LENGTH, 2, target),
            Axis(SOURCE_LENGTH, 2, source),
        ]
    kv_cache = (*self_kv.buffers("self", SELF_CACHE), *cross_kv.buffers("cross", CROSS_CACHE))
    return Signature(
        graph=GraphName.DECODE,
        axes=tuple(axes),
        inputs=(*inputs, *kv_cache),
        outputs=(Buffer("logits", "float32", (NUM_SEQS, vocab_size)),),
        written=tuple(self_kv.names("self")),
    )
