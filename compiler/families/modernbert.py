"""ModernBERT: pre-norm, rotary positions, local windows in most layers, gated feed-forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from precast.compiler.families import rope
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import (
    Backbone,
    Family,
    Head,
    WeightNames,
    linear,
    norm,
    num_labels,
    table,
)
from precast.compiler.models import spec


def layer_norm(config: ConfigReader) -> spec.NormSpec:
    return spec.NormSpec("layer", config.norm_eps, bias=config.norm_bias)


def backbone(config: ConfigReader) -> Backbone:
    config.require(is_causal=False)
    config.ignore("decoder_bias", "classifier_pooling", "classifier_bias", "classifier_activation")
    types = rope.layer_types(config)
    kinds = {kind: layer(config, kind) for kind in types}
    layers = tuple(kinds[kind] for kind in types)
    # The first layer's input is normalized already, by the embeddings.
    layers = (replace(layers[0], attention_norm=False), *layers[1:])
    return Backbone(
        hidden_size=config.hidden_size,
        embeddings=spec.EmbeddingsSpec(
            vocab_size=config.vocab_size, size=config.hidden_size, norm=layer_norm(config)
        ),
        encoder=spec.StackSpec(layers, tuple(range(len(layers))), final_norm=layer_norm(config)),
    )


def layer(config: ConfigReader, kind: str) -> spec.LayerSpec:
    heads = config.num_attention_heads
    head_dim = config.hidden_size // heads
    half_window = config.local_attention // 2  # HF: distance <= local_attention // 2 on either side
    return spec.LayerSpec(
        attention=spec.AttentionSpec(
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            qkv_bias=config.attention_bias,
            out_bias=config.attention_bias,
            window=(half_window, half_window) if kind == rope.SLIDING else (None, None),
            rotary=rope.rotary(config, head_dim, kind),
        ),
        feed_forward=spec.FeedForwardSpec(
            config.intermediate_size,
            config.activation("hidden_activation"),
            gated=True,
            bias=config.mlp_bias,
        ),
        norm=layer_norm(config),
        placement="pre",
    )


def layer_names(target: str, source: str) -> WeightNames:
    return {
        **norm(f"{target}.attention_norm", f"{source}.attn_norm"),
        **linear(f"{target}.attention.qkv", f"{source}.attn.Wqkv"),
        **linear(f"{target}.attention.out", f"{source}.attn.Wo"),
        **norm(f"{target}.feed_forward_norm", f"{source}.mlp_norm"),
        **linear(f"{target}.feed_forward.up", f"{source}.mlp.Wi"),
        **linear(f"{target}.feed_forward.down", f"{source}.mlp.Wo"),
    }


def weights(model: Backbone) -> WeightNames:
    names = {
        **table("embeddings.tokens", "embeddings.tok_embeddings"),
        **norm("embeddings.norm", "embeddings.norm"),
        **norm("encoder.final_norm", "final_norm"),
    }
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"layers.{index}")
    return names


def prediction_head(config: ConfigReader, pick: Literal["first", "mean"] | None) -> Head:
    size = config.hidden_size
    return Head(
        spec.ClassifierSpec(
            labels=num_labels(config),
            bias=True,
            pick=pick,
            dense=spec.DenseSpec(
                size, size, config.classifier_bias, config.activation("classifier_activation")
            ),
            norm=layer_norm(config),
        ),
        {
            **linear("head.dense.linear", "head.dense"),
            **norm("head.norm", "head.norm"),
            **linear("head.out", "classifier"),
        },
    )


def sequence_head(config: ConfigReader) -> Head:
    return prediction_head(config, "mean" if config.classifier_pooling == "mean" else "first")


def token_head(config: ConfigReader) -> Head:
    return prediction_head(config, None)


FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    prefix="model",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=token_head,
    dropped=("head.*", "decoder.*", "classifier.*"),
)
