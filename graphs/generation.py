"""All graphs of an artifact that generates, by name: their signatures and their graph_buckets."""

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
"""Every graph of such an artifact, and the axis by which it is bucketed."""


def generation_signatures(
    limits: GenerateLimits,
    own: KVCacheShape,
    cross: KVCacheShape,
    *,
    hidden_size: int,
    vocab_size: int,
    device: Device,
) -> dict[GraphName, Signature]:
    """What each graph takes and gives.

    Args:
        limits: of the artifact.
        own: a place of the self kv_cache.
        cross: a place of the cross kv_cache.
        hidden_size: of the encoder.
        vocab_size: of the decoder's head.
        device: that the graphs are lowered for.
    """
    signatures = (
        encode_source_signature(limits, cross, hidden_size, device=device),
        decode_signature(limits, own, cross, vocab_size, device=device),
        logits_processors_signature(limits, vocab_size),
        greedy_signature(limits, vocab_size),
        multinomial_signature(limits, vocab_size),
        beam_signature(limits, vocab_size),
    )
    return {signature.graph: signature for signature in signatures}


def generation_buckets(graph: GraphName, limits: GenerateLimits, device: Device) -> Buckets:
    """The buckets of one of ``BUCKET_AXES``: of source tokens, or of rows from one up.

    On CUDA each bucket of ``encode_source`` is one captured graph, as of ``encode``, and steps are captured at
    buckets of rows.
    """
    axis = BUCKET_AXES[graph]
    if axis == TOKENS:
        return token_buckets(limits.max_tokens, device)
    first = 1 if device == "cpu" else 2
    return Buckets.doubling(axis, limits.max_num_seqs, first=first, steps=first)
