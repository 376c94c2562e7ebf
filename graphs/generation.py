"""All graphs of an artifact that generates, by name: their signatures and their ladders."""

from __future__ import annotations

from precast.graphs.sampling import (
    CHOSEN,
    GROUPS,
    beam_signature,
    greedy_signature,
    rules_signature,
    sample_signature,
)
from precast.graphs.encode import TOKENS, Device, tokens_ladder
from precast.graphs.seq2seq import ROWS, GenerateLimits, PoolShape, admit_signature, decode_signature
from precast.graphs.buckets import Ladder
from precast.graphs.signature import Signature

LADDER_AXES = {
    "admit": TOKENS,
    "decode": ROWS,
    "rules": ROWS,
    "choose.greedy": CHOSEN,
    "choose.sample": CHOSEN,
    "choose.beam": GROUPS,
}
"""Every graph of such an artifact, and the axis by which it is bucketed."""


def generation_signatures(
    limits: GenerateLimits,
    own: PoolShape,
    cross: PoolShape,
    *,
    hidden_size: int,
    vocab_size: int,
    device: Device,
) -> dict[str, Signature]:
    """What each graph takes and gives.

    Args:
        limits: of the artifact.
        own: a place of the self pools.
        cross: a place of the cross pools.
        hidden_size: of the encoder.
        vocab_size: of the decoder's head.
        device: that the graphs are lowered for.
    """
    signatures = (
        admit_signature(limits, cross, hidden_size, device=device),
        decode_signature(limits, own, cross, vocab_size, device=device),
        rules_signature(limits, vocab_size),
        greedy_signature(limits, vocab_size),
        sample_signature(limits, vocab_size),
        beam_signature(limits, vocab_size),
    )
    return {signature.graph: signature for signature in signatures}


def generation_ladder(graph: str, limits: GenerateLimits, device: Device) -> Ladder:
    """The buckets of one of ``LADDER_AXES``: of source tokens, or of rows from one up.

    On CUDA each bucket of ``admit`` is one captured graph, as of ``encode``, and steps are captured at
    buckets of rows.
    """
    axis = LADDER_AXES[graph]
    if axis == TOKENS:
        return tokens_ladder(limits.max_tokens, device)
    first = 1 if device == "cpu" else 2
    return Ladder.doubling(axis, limits.max_rows, first=first, steps=first)
