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
    TiedEmbeddings,
    WeightNames,
    linear,
    norm,
    num_labels,
    table,
)
from precast.compiler.models import spec


def backbone(config: ConfigReader) -> Backbone:
    config.require(is_decoder=False, is_causal=False)
    config.ignore("num_decoder_layers", "feed_forward_proj")  # the latter: dense_act_fn and is_gated_act
    own_bias = config.source.model_type == "umt5"
    bias, rms = relative_bias(config), spec.Norm("rms", config.layer_norm_epsilon, bias=False)
    layer = spec.Layer(
        attention=attention(config, bias if own_bias else None),
        feed_forward=spec.FeedForward(
            config.d_ff, config.activation("dense_act_fn"), gated=config.is_gated_act, bias=False
        ),
        norm=rms,
        placement="pre",
    )
    depth = config.num_layers
    return Backbone(
        hidden_size=config.d_model,
        embeddings=spec.Embeddings(vocab_size=config.vocab_size, size=config.d_model),
        encoder=spec.Stack(
            (layer,) * depth,
            tuple(range(depth)),
            relative_bias=None if own_bias else bias,
            final_norm=rms,
        ),
    )


def attention(config: ConfigReader, own_bias: spec.RelativeBias | None) -> spec.Attention:
    return spec.Attention(
        heads=config.num_heads,
        kv_heads=config.num_heads,
        head_dim=config.d_kv,
        scale=1.0,
        qkv_bias=False,
        out_bias=False,
        relative_bias=own_bias,
    )


def relative_bias(config: ConfigReader) -> spec.RelativeBias:
    buckets, reach = config.relative_attention_num_buckets, config.relative_attention_max_distance
    exact = buckets // 4  # half of each direction's buckets hold one distance each
    if not 0 < exact < reach:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: relative_attention_max_distance={reach} with "
            f"relative_attention_num_buckets={buckets} is not supported, only 4 buckets or more and a "
            f"distance above a quarter of them"
        )
    return spec.RelativeBias(buckets, reach, rows=buckets)


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


def decoder(config: ConfigReader, stored: TiedEmbeddings) -> spec.Decoder:
    """Layer 0 owns the bias of all layers, but in umT5, where each has its own; none in cross-attention."""
    kind, hidden = config.source.model_type, config.d_model
    per_layer = kind == "umt5"
    bias = replace(relative_bias(config), bidirectional=False)
    rms = spec.Norm("rms", config.layer_norm_epsilon, bias=False)
    layer = spec.DecoderLayer(
        attention=attention(config, bias if per_layer else None),
        cross_attention=attention(config, None),
        feed_forward=backbone(config).encoder.layers[0].feed_forward,
        norm=rms,
        placement="pre",
    )
    # What scales is the saved tie_word_embeddings, which HF keeps under this name. mT5 never does.
    scaled = {"t5": config.scale_decoder_outputs, "mt5": False, "umt5": True}[kind]
    return spec.Decoder(
        embeddings=spec.Embeddings(vocab_size=config.vocab_size, size=hidden),
        shared_tokens=not stored.tokens,
        layers=(layer,) * config.num_decoder_layers,
        head=spec.LanguageHead(
            config.vocab_size, tied=not stored.head, scale=hidden**-0.5 if scaled else 1.0
        ),
        relative_bias=None if per_layer else bias,
        final_norm=rms,
    )


def decoder_weights(decoder: spec.Decoder) -> WeightNames:
    first = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
    names = {
        **table("decoder.embeddings.tokens", "decoder.embed_tokens"),
        **table("decoder.relative_bias", first),
        **norm("decoder.final_norm", "decoder.final_layer_norm"),
        **table("decoder.head.table", "lm_head"),
    }
    for index, layer in enumerate(decoder.layers):
        target, source = f"decoder.layers.{index}", f"decoder.block.{index}.layer"
        own, cross = f"{source}.0.SelfAttention", f"{source}.1.EncDecAttention"
        feed_forward = f"{source}.2.DenseReluDense"
        parts = ("wi_0", "wi_1") if layer.feed_forward.gated else ("wi",)
        names |= {
            **norm(f"{target}.attention_norm", f"{source}.0.layer_norm"),
            **linear(f"{target}.attention.qkv", *(f"{own}.{part}" for part in "qkv")),
            **linear(f"{target}.attention.out", f"{own}.o"),
            **table(f"{target}.attention.relative_bias", f"{own}.relative_attention_bias"),
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
        spec.Classifier(labels=num_labels(config), bias=True, pick=None), linear("head.out", "classifier")
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
        # Copies of the shared table, and a bias of cross-attention that old checkpoints carry unread.
        dropped=(
            "shared.weight",
            "lm_head.weight",
            "decoder.embed_tokens.weight",
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
    ),
    overflows_fp16=True,
)
