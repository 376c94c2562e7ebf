"""The names of all graphs."""

from __future__ import annotations

from enum import StrEnum


class GraphName(StrEnum):
    """Names a graph by what it computes; the value is the graph's key in the manifest."""

    ENCODE = "encode"
    """Encoder-only model: packed inputs to the output of its task."""
    ENCODE_SOURCE = "encode_source"
    """Encoder of an encoder-decoder, ending in the cross-attention KV written to the cache."""
    DECODE = "decode"
    """One decoder step: the latest token of each active sequence to the logits of its next token."""
    LOGITS_PROCESSORS = "logits_processors"
    """Logits to scores: penalties, bans, forced tokens."""
    SAMPLE_GREEDY = "sample.greedy"
    """Scores to the most likely next tokens; like all ``sample`` graphs it advances the state one
    position."""
    SAMPLE_MULTINOMIAL = "sample.multinomial"
    """Scores to next tokens sampled from their distribution."""
    SAMPLE_BEAM = "sample.beam"
    """Scores to the best beams of each request."""
