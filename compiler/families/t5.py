"""T5, mT5 and umT5 (ByT5 and Flan too): pre-norm without biases, relative positions, unscaled attention."""

from __future__ import annotations

from dataclasses import replace

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import (
    Backbone,
    Family,
    Generation,
    Head,
    UntiedWeights,
    WeightNames,
    linear,
    norm,
    num_labels,
    table,
)
from precast.compiler.models import spec


def backbone(config: ConfigReader) -> Backbone:
    config.require(is_decoder=False, is_causal=False)
    config.ignore("num_decoder_layers", "feed_forward_proj")  # read as dense_act_fn and is_gated_act
    per_layer = config.source.model_type == "umt5"
    bias, rms = relative_bias(config), spec.NormSpec("rms", config.layer_norm_epsilon, bias=False)
    layer = spec.LayerSpec(
        attention=attention(config, bias if per_layer else None),
        feed_forward=spec.FeedForwardSpec(
            config.d_ff, config.activation("dense_act_fn"), gated=config.is_gated_act, bias=False
        ),
        norm=rms,
        placement="pre",
    )
    depth = config.num_layers
    return Backbone(
        hidden_size=config.d_model,
        embeddings=spec.EmbeddingsSpec(vocab_size=config.vocab_size, size=config.d_model),
        encoder=spec.StackSpec(
            (layer,) * depth,
            tuple(range(depth)),
            relative_bias=None if per_layer else bias,
            final_norm=rms,
        ),
    )


def attention(config: ConfigReader, bias: spec.RelativeBiasSpec | None) -> spec.AttentionSpec:
    return spec.AttentionSpec(
        heads=config.num_heads,
        kv_heads=config.num_heads,
        head_dim=config.d_kv,
        scale=1.0,
        qkv_bias=False,
        out_bias=False,
        relative_bias=bias,
    )


def relative_bias(config: ConfigReader) -> spec.RelativeBiasSpec:
    buckets, max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    exact = buckets // 4  # half of each direction's buckets hold a single distance
    if not 0 < exact < max_distance:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: relative_attention_max_distance={max_distance} with "
            f"relative_attention_num_buckets={buckets} is not supported, only 4 buckets or more and a "
            f"distance above a quarter of them"
        )
    return spec.RelativeBiasSpec(buckets, max_distance, rows=buckets)


def layer_names(target: str, source: str) -> WeightNames:
    attention, feed_forward = f"{source}.layer.0.SelfAttention", f"{source}.layer.1.DenseReluDense"
    return {
        **norm(f"{target}.attention_norm", f"{source}.layer.0.layer_norm"),
        **linear(f"{target}.attention.qkv", *(f"{attention}.{part}" for part in "qkv")),
        **linear(f"{target}.attention.out", f"{attention}.o"),
        **table(f"{target}.attention.relative_bias", f"{attention}.relative_attention_bias"),
        **norm(f"{target}.feed_forward_norm", f"{source}.layer.1.layer_norm"),
        **linear(f"{target}.feed_forward.down", f"{feed_forward}.wo"),
    }


def weights(model: Backbone) -> WeightNames:
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    names = {
        **table("embeddings.tokens", "encoder.embed_tokens"),
        **table("encoder.relative_bias", first),
        **norm("encoder.final_norm", "encoder.final_layer_norm"),
    }
    for index, layer in enumerate(model.encoder.layers):
        target, source = f"encoder.layers.{index}", f"encoder.block.{index}"
        parts = ("wi_0", "wi_1") if layer.feed_forward.gated else ("wi",)
        names |= layer_names(target, source)
        names |= linear(
            f"{target}.feed_forward.up", *(f"{source}.layer.1.DenseReluDense.{part}" for part in parts)
        )
    return names


def decoder(config: ConfigReader, untied: UntiedWeights) -> spec.DecoderSpec:
    """Describe the decoder; self-attention shares layer 0's relative bias, in umT5 each layer has its own."""
    model_type, hidden = config.source.model_type, config.d_model
    per_layer = model_type == "umt5"
    bias = replace(relative_bias(config), bidirectional=False)
    rms = spec.NormSpec("rms", config.layer_norm_epsilon, bias=False)
    layer = spec.DecoderLayerSpec(
        attention=attention(config, bias if per_layer else None),
        cross_attention=attention(config, None),
        feed_forward=backbone(config).encoder.layers[0].feed_forward,
        norm=rms,
        placement="pre",
    )
    # HF keeps the saved tie_word_embeddings as scale_decoder_outputs; mT5 never scales.
    scaled = {"t5": config.scale_decoder_outputs, "mt5": False, "umt5": True}[model_type]
    return spec.DecoderSpec(
        embeddings=spec.EmbeddingsSpec(vocab_size=config.vocab_size, size=hidden),
        shared_tokens=not untied.tokens,
        layers=(layer,) * config.num_decoder_layers,
        head=spec.LanguageHeadSpec(
            config.vocab_size, tied=not untied.head, scale=hidden**-0.5 if scaled else 1.0
        ),
        relative_bias=None if per_layer else bias,
        final_norm=rms,
    )


def decoder_weights(decoder: spec.DecoderSpec) -> WeightNames:
    first = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    names = {
        **table("decoder.embeddings.tokens", "decoder.embed_tokens"),
        **table("decoder.relative_bias", first),
        **norm("decoder.final_norm", "decoder.final_layer_norm"),
        **table("decoder.head.table", "lm_head"),
    }
    for index, layer in enumerate(decoder.layers):
        target, source = f"decoder.layers.{index}", f"decoder.block.{index}.layer"
        attention, cross = f"{source}.0.SelfAttention", f"{source}.1.EncDecAttention"
        feed_forward = f"{source}.2.DenseReluDense"
        parts = ("wi_0", "wi_1") if layer.feed_forward.gated else ("wi",)
        names |= {
            **norm(f"{target}.attention_norm", f"{source}.0.layer_norm"),
            **linear(f"{target}.attention.qkv", *(f"{attention}.{part}" for part in "qkv")),
            **linear(f"{target}.attention.out", f"{attention}.o"),
            **table(f"{target}.attention.relative_bias", f"{attention}.relative_attention_bias"),
            **norm(f"{target}.cross_attention_norm", f"{source}.1.layer_norm"),
            **linear(f"{target}.cross_attention.q", f"{cross}.q"),
            **linear(f"{target}.cross_attention.kv", f"{cross}.k", f"{cross}.v"),
            **linear(f"{target}.cross_attention.out", f"{cross}.o"),
            **norm(f"{target}.feed_forward_norm", f"{source}.2.layer_norm"),
            **linear(f"{target}.feed_forward.up", *(f"{feed_forward}.{part}" for part in parts)),
            **linear(f"{target}.feed_forward.down", f"{feed_forward}.wo"),
        }
    return names


def token_head(config: ConfigReader) -> Head:
    return Head(
        spec.ClassifierSpec(labels=num_labels(config), bias=True, pick=None), linear("head.out", "classifier")
    )


FAMILY = Family(
    name="t5",
    model_types=("t5", "mt5", "umt5"),
    prefix="transformer",
    backbone=backbone,
    weights=weights,
    token_head=token_head,
    dropped=("decoder.*", "lm_head.*", "shared.weight", "classifier.*", "classification_head.*"),
    tied={"encoder.embed_tokens.weight": "shared.weight"},
    generation=Generation(
        architectures=(
            "T5ForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "UMT5ForConditionalGeneration",
        ),
        decoder=decoder,
        weights=decoder_weights,
        # Copies of the shared table, and an unused bias of cross-attention in old checkpoints.
        dropped=(
            "shared.weight",
            "lm_head.weight",
            "decoder.embed_tokens.weight",
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
    ),
    overflows_fp16=True,
)
