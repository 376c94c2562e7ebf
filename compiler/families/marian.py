"""Marian (OPUS-MT): post-norm with computed positions; encoder and decoder may have separate vocabularies."""

from __future__ import annotations

from precast.compiler.families import bart_like

FAMILY = bart_like.family("marian", bart_like.BartVariant("post", bart_like.sinusoidal), "MarianMTModel")
