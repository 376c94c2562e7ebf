"""The supported families, by HF's ``model_type``."""

from __future__ import annotations

from precast.compiler.errors import UnsupportedModelError
from precast.compiler.families import (
    albert,
    bart,
    bert,
    blenderbot,
    blenderbot_small,
    distilbert,
    electra,
    gemma3,
    llama,
    m2m_100,
    marian,
    mbart,
    mistral,
    modernbert,
    mpnet,
    pegasus,
    plbart,
    qwen3,
    roberta,
    t5,
)
from precast.compiler.families.family import Family

FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    roberta.FAMILY,
    distilbert.FAMILY,
    mpnet.FAMILY,
    electra.FAMILY,
    albert.FAMILY,
    modernbert.FAMILY,
    t5.FAMILY,
    llama.FAMILY,
    mistral.FAMILY,
    qwen3.FAMILY,
    gemma3.FAMILY,
    bart.FAMILY,
    mbart.FAMILY,
    plbart.FAMILY,
    pegasus.FAMILY,
    marian.FAMILY,
    m2m_100.FAMILY,
    blenderbot.FAMILY,
    blenderbot_small.FAMILY,
)


def family_of(model_type: str) -> Family:
    """The family of a ``model_type``.

    Raises:
        UnsupportedModelError: no family has it.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = sorted(name for family in FAMILIES for name in family.model_types)
    raise UnsupportedModelError(
        f"model_type {model_type!r} is not supported; supported are {', '.join(known)}. "
        f"CONTRIBUTING.md describes how to add a family"
    )
