"""Marian (OPUS-MT): post-norm with computed positions; the two halves may have vocabularies of their own."""

from __future__ import annotations

from precast.compiler.families import bart_like

FAMILY = bart_like.family("marian", bart_like.BartVariant("post", bart_like.sinusoidal), "MarianMTModel")
