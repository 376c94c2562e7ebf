"""mBART and mBART-50: BART with pre-norm layers and a final norm."""

from __future__ import annotations

from functools import partial

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "mbart",
    bart_like.BartVariant("pre", partial(bart_like.learned, offset=2), embedding_norm="sum"),
    "MBartForConditionalGeneration",
)
