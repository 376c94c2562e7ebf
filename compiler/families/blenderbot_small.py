"""Blenderbot small: post-norm like BART; its decoder normalizes the tokens before positions are added."""

from __future__ import annotations

from functools import partial

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "blenderbot_small",
    bart_like.BartVariant("post", partial(bart_like.learned, offset=0), embedding_norm="first"),
    "BlenderbotSmallForConditionalGeneration",
    model_type="blenderbot-small",
)
