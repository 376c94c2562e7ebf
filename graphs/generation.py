"""All graphs of a ``generate`` artifact by name: their signatures and their buckets."""

from __future__ import annotations

from precast.graphs.buckets import Buckets
from precast.graphs.encode import TOKENS, Device, token_buckets
from precast.graphs.graph_names import GraphName
from precast.graphs.sampling import (
    GROUPS,
    SAMPLED,
    beam_signature,
    greedy_signature,
    logits_processors_signature,
    multinomial_signature,
)
from precast.graphs.seq2seq import (
    NUM_SEQS,
    GenerateLimits,
    KVCacheShape,
    decode_signature,
    encode_source_signature,
)
from precast.graphs.signature import Signature

BUCKET_AXES = {
    GraphName.ENCODE_SOURCE: TOKENS,
    GraphName.DECODE: NUM_SEQS,
    GraphName.LOGITS_PROCESSORS: NUM_SEQS,
    GraphName.SAMPLE_GREEDY: SAMPLED,
    GraphName.SAMPLE_MULTINOMIAL: SAMPLED,
    GraphName.SAMPLE_BEAM: GROUPS,
}
"""Every graph, and the axis of its buckets."""


def generation_signatures(
    limits: GenerateLimits,
    self_kv: KVCacheShape,
    cross_kv: KVCacheShape,
    *,
    hidden_size: int,
    vocab_size: int,
    device: Device,
) -> dict[GraphName, Signature]:
    """Return the signature of each graph.

    Args:
        limits: Limits of the artifact.
        self_kv: Shape of a self-attention slot.
        cross_kv: Shape of a cross-attention slot.
        hidden_size: Size of the encoder's hidden states.
        vocab_size: Vocabulary of the decoder's head.
        device: Device that the graphs are lowered for.
    """
    signatures = (
        encode_source_signature(limits, cross_kv, hidden_size, device=device),
        decode_signature(limits, self_kv, cross_kv, vocab_size, device=device),
        logits_processors_signature(),
        greedy_signature(),
        multinomial_signature(),
        beam_signature(),
    )
    return {signature.graph: signature for signature in signatures}


def generation_buckets(graph: GraphName, limits: GenerateLimits, device: Device) -> Buckets:
    """Return the default buckets of a graph: of source tokens, or of sequences from one up.

    On CUDA ``encode_source`` is captured at each of its buckets, as ``encode`` is, and steps at those of
    ``decode``.
    """
    axis = BUCKET_AXES[graph]
    if axis == TOKENS:
        return token_buckets(limits.max_tokens, device)
    first = 1 if device == "cpu" else 2
    return Buckets.doubling(axis, limits.max_num_seqs, first=first, steps=first)
