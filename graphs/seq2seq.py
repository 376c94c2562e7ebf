"""The graphs of an encoder-decoder: ``encode_source`` and ``decode``, and the kv_cache between them."""

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

SOURCE_BATCH_TOKENS = 1024
"""Source tokens that are encoded together, unless an engine is told otherwise."""
MAX_SLOTS = 1 << 27
"""Of a cache: one token's keys and values each; addressed by 32-bit numbers."""


@dataclass(frozen=True)
class GenerateLimits:
    """The largest request and the largest step that an artifact serves."""

    max_source_length: int
    """Tokens of one source."""
    max_target_length: int
    """Positions of a decoder row: start token, prefix and everything generated."""
    max_tokens: int
    """Source tokens that are admitted together."""
    max_batch: int
    """Sources that are admitted together."""
    max_num_seqs: int
    """Rows that there is state for: a request has one for each of its beams."""

    def __post_init__(self) -> None:
        if not (
            0 < self.max_source_length <= self.max_tokens <= MAX_TOKENS
            and 1 < self.max_target_length <= MAX_TOKENS
            and 0 < self.max_batch <= MAX_BATCH
            and 0 < self.max_num_seqs <= MAX_BATCH
        ):
            raise LimitsError(
                f"limits need 0 < max_source_length <= max_tokens <= {MAX_TOKENS}, 1 < max_target_length "
                f"<= {MAX_TOKENS}, 0 < max_batch <= {MAX_BATCH} and 0 < max_num_seqs <= {MAX_BATCH}, found {self}"
            )

    @property
    def max_input_length(self) -> int:
        return self.max_source_length


@dataclass(frozen=True)
class KVCacheShape:
    """What a place of a cache holds: keys and values of one token in every decoder layer."""

    layers: int
    heads: int
    head_dim: int
    dtype: str

    def names(self, kind: str) -> list[str]:
        """``self_key_0``, ``self_value_0``, ``self_key_1``, ..."""
        return [f"{kind}_{part}_{layer}" for layer in range(self.layers) for part in ("key", "value")]

    def buffers(self, kind: str, axis: str) -> list[Buffer]:
        """One tensor a layer and part: a cache stacked over layers would be copied whole in every step."""
        return [
            Buffer(name, self.dtype, (axis, self.heads, self.head_dim), "kv_cache")
            for name in self.names(kind)
        ]


def encode_source_signature(
    limits: GenerateLimits, cross: KVCacheShape, hidden_size: int, *, device: Device
) -> Signature:
    """Sources in, their keys and values into the cross kv_cache.

    ``input_ids``, ``cu_seqlens`` and ``key_positions`` are those of ``encode``. ``cross_slots`` is
    ``[tokens]``: the place of each token in the cross kv_cache; spare tokens go to a place that nobody reads.
    The kv_cache are written in place. Gives the encoder's hidden states.
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
        inputs=(*inputs, *cross.buffers("cross", CROSS_CACHE)),
        outputs=(Buffer("hidden", "float32", (TOKENS, hidden_size)),),
        written=tuple(cross.names("cross")),
    )


def decode_signature(
    limits: GenerateLimits, own: KVCacheShape, cross: KVCacheShape, vocab_size: int, *, device: Device
) -> Signature:
    """One token of every active row in, the logits of the next one out.

    State has a row for each of ``max_num_seqs``, and ``rows`` names the active ones, of which the last may stand
    there several times, to fill a step up; kernels may compute it once. ``tokens``, ``positions`` and
    ``cross_lengths`` ``[max_num_seqs]``; ``kv_slots`` ``[max_num_seqs, max_target_length]``, the place in the self
    kv_cache of each position, where the entry at a row's own position is what this step writes;
    ``cross_slots`` ``[max_num_seqs, max_source_length]``. On a CPU ``self_span`` and ``cross_span`` count from
    zero up to the longest past and the longest source among the active rows: their sizes say how far to read.
    """
    rows = limits.max_num_seqs
    inputs = [
        Buffer("seq_ids", "int32", (NUM_SEQS,)),
        Buffer("tokens", "int32", (rows,), "state"),
        Buffer("positions", "int32", (rows,), "state"),
        Buffer("kv_slots", "int32", (rows, limits.max_target_length), "state"),
        Buffer("cross_slots", "int32", (rows, limits.max_source_length), "state"),
        Buffer("cross_lengths", "int32", (rows,), "state"),
    ]
    axes = [Axis(NUM_SEQS, 2, max(2, rows)), Axis(SELF_CACHE, 2, MAX_SLOTS), Axis(CROSS_CACHE, 2, MAX_SLOTS)]
    if device == "cpu":
        inputs += [
            Buffer("self_span", "int32", (SELF_LENGTH,), "span"),
            Buffer("cross_span", "int32", (SOURCE_LENGTH,), "span"),
        ]
        axes += [
            Axis(SELF_LENGTH, 2, max(2, limits.max_target_length)),
            Axis(SOURCE_LENGTH, 2, max(2, limits.max_source_length)),
        ]
    kv_cache = (*own.buffers("self", SELF_CACHE), *cross.buffers("cross", CROSS_CACHE))
    return Signature(
        graph=GraphName.DECODE,
        axes=tuple(axes),
        inputs=(*inputs, *kv_cache),
        outputs=(Buffer("logits", "float32", (NUM_SEQS, vocab_size)),),
        written=tuple(own.names("self")),
    )
