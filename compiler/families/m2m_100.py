"""M2M100 and NLLB: pre-norm, computed positions that skip padding, no bias of the logits."""

from __future__ import annotations

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families import bart_like
from precast.compiler.families.config import ConfigReader
from precast.compiler.models import spec


def positions(config: ConfigReader) -> spec.PositionsSpec:
    padding_idx = config.pad_token_id
    if padding_idx is None:
        raise UnsupportedConfigError("m2m_100: pad_token_id=None is not supported: positions start after it")
    # HF extends its table for longer inputs; this one has the length that the configuration states.
    rows = config.max_position_embeddings + padding_idx + 1
    return spec.PositionsSpec(rows, padding_idx, sinusoidal="tensor2tensor")


FAMILY = bart_like.family(
    "m2m_100", bart_like.BartVariant("pre", positions), "M2M100ForConditionalGeneration", head_bias=None
)
