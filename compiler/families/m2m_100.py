"""M2M100 and NLLB: pre-norm, computed positions that count tokens but padding, no bias of the logits."""

from __future__ import annotations

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families import bart_like
from precast.compiler.families.config import ConfigReader
from precast.compiler.models import spec


def positions(config: ConfigReader) -> spec.Positions:
    padding_idx = config.pad_token_id
    if padding_idx is None:
        raise UnsupportedConfigError("m2m_100: pad_token_id=None is not supported; positions begin behind it")
    # HF makes its table longer when an input asks for it; this one reaches as far as the model is meant to.
    rows = config.max_position_embeddings + padding_idx + 1
    return spec.Positions(rows, padding_idx, sinusoidal="tensor2tensor")


FAMILY = bart_like.family(
    "m2m_100", bart_like.BartVariant("pre", positions), "M2M100ForConditionalGeneration", head_bias=None
)
