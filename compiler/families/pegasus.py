"""Pegasus: pre-norm with computed positions, trained in bf16."""

from __future__ import annotations

from precast.compiler.families import bart_like

FAMILY = bart_like.family(
    "pegasus",
    bart_like.BartVariant("pre", bart_like.sinusoidal),
    "PegasusForConditionalGeneration",
    overflows_fp16=True,
)
