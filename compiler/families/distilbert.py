"""DistilBERT: BERT without token types and pooler, with different weight names."""

from __future__ import annotations

from precast.compiler.families import bert
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, Head, WeightNames, linear, norm, num_labels
from precast.compiler.models import spec

_NORM = spec.NormSpec("layer", 1e-12)
"""A constant in HF; the configuration has no value for it."""


def backbone(config: ConfigReader) -> Backbone:
    # Initialization of the position table, which the checkpoint holds in either case.
    config.ignore("sinusoidal_pos_embds")
    heads, depth = config.n_heads, config.n_layers
    head_dim = config.dim // heads
    layer = spec.LayerSpec(
        attention=spec.AttentionSpec(heads=heads, kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5),
        feed_forward=spec.FeedForwardSpec(config.hidden_dim, config.activation("activation")),
        norm=_NORM,
        placement="post",
    )
    return Backbone(
        hidden_size=config.dim,
        embeddings=spec.EmbeddingsSpec(
            vocab_size=config.vocab_size,
            size=config.dim,
            positions=spec.PositionsSpec(config.max_position_embeddings),
            norm=_NORM,
        ),
        encoder=spec.StackSpec((layer,) * depth, tuple(range(depth))),
    )


def layer_names(target: str, source: str) -> WeightNames:
    attention = [f"{source}.attention.{part}" for part in ("q_lin", "k_lin", "v_lin")]
    return {
        **linear(f"{target}.attention.qkv", *attention),
        **linear(f"{target}.attention.out", f"{source}.attention.out_lin"),
        **norm(f"{target}.attention_norm", f"{source}.sa_layer_norm"),
        **linear(f"{target}.feed_forward.up", f"{source}.ffn.lin1"),
        **linear(f"{target}.feed_forward.down", f"{source}.ffn.lin2"),
        **norm(f"{target}.feed_forward_norm", f"{source}.output_layer_norm"),
    }


def weights(model: Backbone) -> WeightNames:
    names = dict(bert.embedding_names())
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"transformer.layer.{index}")
    return names


def sequence_head(config: ConfigReader) -> Head:
    size = config.dim
    return Head(
        spec.ClassifierSpec(
            labels=num_labels(config), bias=True, pick="first", dense=spec.DenseSpec(size, size, True, "relu")
        ),
        {**linear("head.dense.linear", "pre_classifier"), **linear("head.out", "classifier")},
    )


FAMILY = Family(
    name="distilbert",
    model_types=("distilbert",),
    prefix="distilbert",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=bert.token_head,
    dropped=(
        "vocab_transform.*", "vocab_layer_norm.*", "vocab_projector.*", "pre_classifier.*", "classifier.*",
        "embeddings.position_ids",
    ),
)  # fmt: skip
