"""ELECTRA, generator and discriminator: BERT with a separate embedding size."""

from __future__ import annotations

from dataclasses import replace

from precast.compiler.families import bert, roberta
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, Head, WeightNames, linear


def backbone(config: ConfigReader) -> Backbone:
    # Used by the multiple-choice head, which no task has.
    config.ignore("summary_type", "summary_use_proj", "summary_activation")
    model = bert.backbone(config)
    size = config.embedding_size
    return replace(
        model, embeddings=replace(model.embeddings, size=size, projected=size != model.hidden_size)
    )


def weights(model: Backbone) -> WeightNames:
    return {**bert.weights(model), **linear("embeddings.projection", "embeddings_project")}


def sequence_head(config: ConfigReader) -> Head:
    """RoBERTa's head with GELU, whatever ``hidden_act`` says."""
    return roberta.first_token_head(config, "gelu")


FAMILY = Family(
    name="electra",
    model_types=("electra",),
    prefix="electra",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=bert.token_head,
    dropped=(
        "discriminator_predictions.*", "generator_predictions.*", "generator_lm_head.*", "classifier.*",
        "embeddings.position_ids",
    ),
)  # fmt: skip
