"""Blenderbot: pre-norm, learned positions from the table's first row."""

from __future__ import annotations

from functools import partial

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "blenderbot",
    bart_like.BartVariant("pre", partial(bart_like.learned, offset=0)),
    "BlenderbotForConditionalGeneration",
)
