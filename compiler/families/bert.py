"""BERT: post-norm, learned positions, token types."""

from __future__ import annotations

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


def post_norm_stack(
    config: ConfigReader, relative_bias: spec.RelativeBiasSpec | None = None
) -> spec.StackSpec:
    """BERT's layers, which RoBERTa, ELECTRA and MPNet share."""
    heads = config.num_attention_heads
    head_dim = config.hidden_size // heads
    layer = spec.LayerSpec(
        attention=spec.AttentionSpec(heads=heads, kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5),
        feed_forward=spec.FeedForwardSpec(config.intermediate_size, config.activation("hidden_act")),
        norm=spec.NormSpec("layer", config.layer_norm_eps),
        placement="post",
    )
    depth = config.num_hidden_layers
    return spec.StackSpec((layer,) * depth, tuple(range(depth)), relative_bias=relative_bias)


def backbone(config: ConfigReader) -> Backbone:
    config.require(is_decoder=False, add_cross_attention=False)
    config.ignore("pooler_fc_size")
    return Backbone(
        hidden_size=config.hidden_size,
        embeddings=spec.EmbeddingsSpec(
            vocab_size=config.vocab_size,
            size=config.hidden_size,
            token_types=config.type_vocab_size,
            positions=spec.PositionsSpec(config.max_position_embeddings),
            norm=spec.NormSpec("layer", config.layer_norm_eps),
        ),
        encoder=post_norm_stack(config),
    )


def embedding_names() -> WeightNames:
    return {
        **table("embeddings.tokens", "embeddings.word_embeddings"),
        **table("embeddings.positions", "embeddings.position_embeddings"),
        **table("embeddings.token_types", "embeddings.token_type_embeddings"),
        **norm("embeddings.norm", "embeddings.LayerNorm"),
    }


def layer_names(target: str, source: str) -> WeightNames:
    attention = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
    return {
        **linear(f"{target}.attention.qkv", *attention),
        **linear(f"{target}.attention.out", f"{source}.attention.output.dense"),
        **norm(f"{target}.attention_norm", f"{source}.attention.output.LayerNorm"),
        **linear(f"{target}.feed_forward.up", f"{source}.intermediate.dense"),
        **linear(f"{target}.feed_forward.down", f"{source}.output.dense"),
        **norm(f"{target}.feed_forward_norm", f"{source}.output.LayerNorm"),
    }


def weights(model: Backbone) -> WeightNames:
    names = dict(embedding_names())
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"encoder.layer.{index}")
    return names


def sequence_head(config: ConfigReader) -> Head:
    size = config.hidden_size
    return Head(
        spec.ClassifierSpec(
            labels=num_labels(config), bias=True, pick="first", dense=spec.DenseSpec(size, size, True, "tanh")
        ),
        {**linear("head.dense.linear", "pooler.dense"), **linear("head.out", "classifier")},
    )


def token_head(config: ConfigReader) -> Head:
    return Head(
        spec.ClassifierSpec(labels=num_labels(config), bias=True, pick=None), linear("head.out", "classifier")
    )


FAMILY = Family(
    name="bert",
    model_types=("bert",),
    prefix="bert",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=token_head,
    dropped=("pooler.*", "cls.*", "classifier.*", "embeddings.position_ids"),
)
