"""Mistral: Llama without biases, with a sliding window in every layer."""

from __future__ import annotations

from precast.compiler.families import llama, rope
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family


def backbone(config: ConfigReader) -> Backbone:
    kind = rope.FULL if config.sliding_window is None else rope.SLIDING
    return llama.pre_norm_backbone(config, llama.windows(config, (kind,) * config.num_hidden_layers))


FAMILY = Family(
    name="mistral",
    model_types=("mistral",),
    prefix="model",
    backbone=backbone,
    weights=llama.weights,
    sequence_head=llama.sequence_head,
    token_head=llama.token_head,
    dropped=llama.DROPPED,
)
