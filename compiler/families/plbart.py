"""PLBart: BART for code; only defaults differ (embeddings are scaled)."""

from __future__ import annotations

from functools import partial

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "plbart",
    bart_like.BartVariant("post", partial(bart_like.learned, offset=2), embedding_norm="sum"),
    "PLBartForConditionalGeneration",
)
