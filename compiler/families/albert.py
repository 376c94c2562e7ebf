"""ALBERT: BERT with layers that share parameters and small embeddings projected to the hidden size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from precast.compiler.families import bert
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, Head, WeightNames, linear, norm


@dataclass(frozen=True)
class SharedBackbone(Backbone):
    """A backbone that also keeps the group of each layer, which the names of its weights contain."""

    blocks: tuple[tuple[int, int], ...]
    """For each layer its group and its index within the group."""


def layer_blocks(layers: int, groups: int, inner: int) -> tuple[tuple[int, int], ...]:
    """The (group, index) of every layer, with HF's rounding where ``groups`` does not divide ``layers``."""
    return tuple((int(i / (layers / groups)), j) for i in range(layers) for j in range(inner))


def backbone(config: ConfigReader) -> SharedBackbone:
    model = bert.backbone(config)
    blocks = layer_blocks(config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num)
    return SharedBackbone(
        hidden_size=model.hidden_size,
        embeddings=replace(model.embeddings, size=config.embedding_size, projected=True),
        encoder=replace(
            model.encoder,
            layers=model.encoder.layers[:1] * len(blocks),
            parameters_of=tuple(blocks.index(block) for block in blocks),
        ),
        blocks=blocks,
    )


def layer_names(target: str, source: str) -> WeightNames:
    attention = [f"{source}.attention.{part}" for part in ("query", "key", "value")]
    return {
        **linear(f"{target}.attention.qkv", *attention),
        **linear(f"{target}.attention.out", f"{source}.attention.dense"),
        **norm(f"{target}.attention_norm", f"{source}.attention.LayerNorm"),
        **linear(f"{target}.feed_forward.up", f"{source}.ffn"),
        **linear(f"{target}.feed_forward.down", f"{source}.ffn_output"),
        **norm(f"{target}.feed_forward_norm", f"{source}.full_layer_layer_norm"),
    }


def weights(model: Backbone) -> WeightNames:
    assert isinstance(model, SharedBackbone)
    names = dict(bert.embedding_names())
    names |= linear("embeddings.projection", "encoder.embedding_hidden_mapping_in")
    for owner in set(model.encoder.parameters_of):
        group, inner = model.blocks[owner]
        source = f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        names |= layer_names(f"encoder.layers.{owner}", source)
    return names


def sequence_head(config: ConfigReader) -> Head:
    """BERT's head; the pooler is a plain linear layer."""
    names = {**linear("head.dense.linear", "pooler"), **linear("head.out", "classifier")}
    return Head(bert.sequence_head(config).classifier, names)


FAMILY = Family(
    name="albert",
    model_types=("albert",),
    prefix="albert",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=bert.token_head,
    dropped=("pooler.*", "predictions.*", "sop_classifier.*", "classifier.*", "embeddings.position_ids"),
)
