"""Qwen3: Llama with norms of queries and keys, and sliding windows in some layers."""

from __future__ import annotations

from precast.compiler.families import llama, rope
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family


def backbone(config: ConfigReader) -> Backbone:
    # HF has converted these to layer_types and sliding_window.
    config.ignore("use_sliding_window", "max_window_layers", "sliding_window")
    return llama.pre_norm_backbone(
        config,
        llama.windows(config, rope.layer_types(config)),
        attention_bias=config.attention_bias,
        qk_norm=True,
    )


FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
    prefix="model",
    backbone=backbone,
    weights=llama.weights,
    sequence_head=llama.sequence_head,
    token_head=llama.token_head,
    dropped=llama.DROPPED,
)
