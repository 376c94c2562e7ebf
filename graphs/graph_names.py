"""The names of all graphs."""

from __future__ import annotations

from enum import StrEnum


class GraphName(StrEnum):
    """What a graph computes; its value is its key in the manifest."""

    ENCODE = "encode"
    """Encoder-only model: packed inputs to the output of its task."""
    ENCODE_SOURCE = "encode_source"
    """Encoder of an encoder-decoder, ending in the cross-attention KV written to the cache."""
    DECODE = "decode"
    """One token per active sequence: logits of the next one."""
    LOGITS_PROCESSORS = "logits_processors"
    """Logits to scores: penalties, bans, forced tokens."""
    SAMPLE_GREEDY = "sample.greedy"
    SAMPLE_MULTINOMIAL = "sample.multinomial"
    SAMPLE_BEAM = "sample.beam"
    """Scores to next tokens; the state moves one position on."""
