"""BART: post-norm, learned positions that start at the table's third row, normalized embeddings."""

from __future__ import annotations

from functools import partial

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "bart",
    bart_like.BartVariant("post", partial(bart_like.learned, offset=2), embedding_norm="sum"),
    "BartForConditionalGeneration",
)
