"""RoBERTa, XLM-RoBERTa and CamemBERT, which differ only in their tokenizers."""

from __future__ import annotations

from dataclasses import replace

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families import bert
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, Head, linear, num_labels
from precast.compiler.models import spec


def backbone(config: ConfigReader) -> Backbone:
    """BERT with positions that skip padding and start after the padding id."""
    padding_idx = config.pad_token_id
    if padding_idx is None:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: pad_token_id=None is not supported: positions start after this id"
        )
    model = bert.backbone(config)
    positions = spec.PositionsSpec(config.max_position_embeddings, padding_idx)
    return replace(model, embeddings=replace(model.embeddings, positions=positions))


def first_token_head(config: ConfigReader, activation: spec.Activation) -> Head:
    """HF's ``ClassificationHead``, which MPNet and ELECTRA share."""
    size = config.hidden_size
    return Head(
        spec.ClassifierSpec(
            labels=num_labels(config),
            bias=True,
            pick="first",
            dense=spec.DenseSpec(size, size, True, activation),
        ),
        {**linear("head.dense.linear", "classifier.dense"), **linear("head.out", "classifier.out_proj")},
    )


def sequence_head(config: ConfigReader) -> Head:
    return first_token_head(config, "tanh")


FAMILY = Family(
    name="roberta",
    model_types=("roberta", "xlm-roberta", "camembert"),
    prefix="roberta",
    backbone=backbone,
    weights=bert.weights,
    sequence_head=sequence_head,
    token_head=bert.token_head,
    dropped=("pooler.*", "lm_head.*", "classifier.*", "embeddings.position_ids"),
)
