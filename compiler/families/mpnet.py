"""MPNet: BERT's layers with a shared relative bias, RoBERTa's positions, no token types."""

from __future__ import annotations

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families import bert, roberta
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, WeightNames, linear, norm, table
from precast.compiler.models import spec

# Constants in HF. The configuration's pad_token_id is not read there, and
# relative_attention_num_buckets sets only the number of the table's rows.
_PADDING_IDX = 1
_BUCKETS = 32
_MAX_DISTANCE = 128


def backbone(config: ConfigReader) -> Backbone:
    rows = config.relative_attention_num_buckets
    if rows < _BUCKETS:
        raise UnsupportedConfigError(
            f"mpnet: relative_attention_num_buckets={rows!r} is not supported, only {_BUCKETS} or more: "
            f"Hugging Face sorts distances into {_BUCKETS} buckets for any configuration"
        )
    return Backbone(
        hidden_size=config.hidden_size,
        embeddings=spec.EmbeddingsSpec(
            vocab_size=config.vocab_size,
            size=config.hidden_size,
            positions=spec.PositionsSpec(config.max_position_embeddings, _PADDING_IDX),
            norm=spec.NormSpec("layer", config.layer_norm_eps),
        ),
        encoder=bert.post_norm_stack(config, spec.RelativeBiasSpec(_BUCKETS, _MAX_DISTANCE, rows)),
    )


def layer_names(target: str, source: str) -> WeightNames:
    """BERT's names, except those of the attention."""
    attention = [f"{source}.attention.attn.{part}" for part in ("q", "k", "v")]
    return {
        **bert.layer_names(target, source),
        **linear(f"{target}.attention.qkv", *attention),
        **linear(f"{target}.attention.out", f"{source}.attention.attn.o"),
        **norm(f"{target}.attention_norm", f"{source}.attention.LayerNorm"),
    }


def weights(model: Backbone) -> WeightNames:
    names = dict(bert.embedding_names())
    names |= table("encoder.relative_bias", "encoder.relative_attention_bias")
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"encoder.layer.{index}")
    return names


FAMILY = Family(
    name="mpnet",
    model_types=("mpnet",),
    prefix="mpnet",
    backbone=backbone,
    weights=weights,
    sequence_head=roberta.sequence_head,
    token_head=bert.token_head,
    dropped=("pooler.*", "lm_head.*", "classifier.*", "embeddings.position_ids"),
)
