"""BART and its relatives: their common layers and weight names, and a description of how they differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import (
    Backbone,
    Family,
    Generation,
    UntiedWeights,
    WeightNames,
    linear,
    norm,
    table,
)
from precast.compiler.models import spec

NORM = spec.NormSpec("layer", 1e-5)
TABLES = ("shared.weight", "lm_head.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True)
class BartVariant:
    """How a relative of BART differs from the others.

    Attributes:
        placement: of the norms; ``pre`` adds a norm after the last layer.
        positions: the position table, from the configuration.
        embedding_norm: ``sum`` normalizes the summed embeddings, ``first`` the decoder's tokens before
            positions are added to them.
    """

    placement: Literal["post", "pre"]
    positions: Callable[[ConfigReader], spec.PositionsSpec]
    embedding_norm: Literal["none", "sum", "first"] = "none"

    @property
    def final_norm(self) -> spec.NormSpec | None:
        return NORM if self.placement == "pre" else None


def learned(config: ConfigReader, offset: int) -> spec.PositionsSpec:
    return spec.PositionsSpec(config.max_position_embeddings + offset, offset=offset)


def sinusoidal(config: ConfigReader) -> spec.PositionsSpec:
    return spec.PositionsSpec(config.max_position_embeddings, sinusoidal="halves")


def family(
    name: str,
    variant: BartVariant,
    *architectures: str,
    model_type: str | None = None,
    head_bias: str | None = "final_logits_bias",
    overflows_fp16: bool = False,
) -> Family:
    """Build the family of one BART variant.

    Args:
        name: of the family.
        variant: how encoder and decoder are built.
        *architectures: HF's model classes that generate text.
        model_type: in ``config.json``; default ``name``.
        head_bias: source name of the bias of the logits; ``None`` if there is none.
        overflows_fp16: see ``Family.overflows_fp16``.
    """
    # Version markers of fairseq's converter, and stored copies of computed tables (M2M100: "weights").
    unused = ("encoder.version", "decoder.version", "*.embed_positions.weight*")
    return Family(
        name=name,
        model_types=(model_type or name,),
        prefix="model",
        backbone=partial(backbone, variant=variant),
        weights=weights,
        dropped=(
            *unused,
            "decoder.*",
            "lm_head.*",
            "shared.weight",
            "final_logits_bias",
            "classification_head.*",
            "qa_outputs.*",
        ),
        tied={"encoder.embed_tokens.weight": "shared.weight"},
        generation=Generation(
            architectures=architectures,
            decoder=partial(decoder, variant=variant),
            weights=decoder_weights,
            head_bias=head_bias,
            dropped=(*unused, *TABLES),
        ),
        overflows_fp16=overflows_fp16,
    )


def backbone(config: ConfigReader, variant: BartVariant) -> Backbone:
    config.require(is_decoder=False)
    config.ignore("init_std", "encoder_layerdrop", "decoder_layerdrop")
    # Read by `decoder` (generation defaults by frontend/generation_config.py).
    config.ignore("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "decoder_vocab_size")
    config.ignore("share_encoder_decoder_embeddings", "forced_eos_token_id", "encoder_no_repeat_ngram_size")
    layer = spec.LayerSpec(
        attention=attention(config, config.encoder_attention_heads),
        feed_forward=spec.FeedForwardSpec(config.encoder_ffn_dim, config.activation("activation_function")),
        norm=NORM,
        placement=variant.placement,
    )
    depth = config.encoder_layers
    return Backbone(
        hidden_size=config.d_model,
        embeddings=embeddings(config, variant),
        encoder=spec.StackSpec((layer,) * depth, tuple(range(depth)), final_norm=variant.final_norm),
    )


def embeddings(config: ConfigReader, variant: BartVariant) -> spec.EmbeddingsSpec:
    """Describe the encoder's embeddings."""
    return spec.EmbeddingsSpec(
        vocab_size=config.vocab_size,
        size=config.d_model,
        positions=variant.positions(config),
        norm=None if variant.embedding_norm == "none" else NORM,
        scale=math.sqrt(config.d_model) if config.scale_embedding else 1.0,
    )


def attention(config: ConfigReader, heads: int) -> spec.AttentionSpec:
    head_dim = config.d_model // heads
    return spec.AttentionSpec(heads=heads, kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5)


def decoder(config: ConfigReader, untied: UntiedWeights, variant: BartVariant) -> spec.DecoderSpec:
    shares_vocab = config.share_encoder_decoder_embeddings is not False  # a field of Marian's alone
    vocab = config.vocab_size if shares_vocab else config.decoder_vocab_size
    cross = attention(config, config.decoder_attention_heads)
    layer = spec.DecoderLayerSpec(
        attention=replace(cross, window=(None, 0)),
        cross_attention=cross,
        feed_forward=spec.FeedForwardSpec(config.decoder_ffn_dim, config.activation("activation_function")),
        norm=NORM,
        placement=variant.placement,
    )
    norm_first, source = variant.embedding_norm == "first", embeddings(config, variant)
    return spec.DecoderSpec(
        embeddings=replace(
            source,
            vocab_size=vocab,
            norm_first=norm_first,
            # HF omits the factor before a norm, which cancels it except for epsilon.
            scale=1.0 if norm_first else source.scale,
        ),
        shared_tokens=not untied.tokens,
        layers=(layer,) * config.decoder_layers,
        head=spec.LanguageHeadSpec(vocab, tied=not untied.head, bias=untied.bias),
        final_norm=variant.final_norm,
    )


def outer_names(target: str, embeddings: str, source: str) -> WeightNames:
    """Weight names of the encoder or the decoder outside its layers."""
    return {
        **table(f"{embeddings}.tokens", f"{source}.embed_tokens"),
        **table(f"{embeddings}.positions", f"{source}.embed_positions"),
        **norm(f"{embeddings}.norm", f"{source}.layernorm_embedding"),
        **norm(f"{target}.final_norm", f"{source}.layer_norm"),
    }


def layer_names(target: str, source: str) -> WeightNames:
    """Weight names that encoder and decoder layers have in common."""
    attention = f"{source}.self_attn"
    return {
        **linear(f"{target}.attention.qkv", *(f"{attention}.{part}_proj" for part in "qkv")),
        **linear(f"{target}.attention.out", f"{attention}.out_proj"),
        **norm(f"{target}.attention_norm", f"{source}.self_attn_layer_norm"),
        **linear(f"{target}.feed_forward.up", f"{source}.fc1"),
        **linear(f"{target}.feed_forward.down", f"{source}.fc2"),
        **norm(f"{target}.feed_forward_norm", f"{source}.final_layer_norm"),
    }


def weights(model: Backbone) -> WeightNames:
    names = dict(outer_names("encoder", "embeddings", "encoder"))
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"encoder.layers.{index}")
    return names


def decoder_weights(decoder: spec.DecoderSpec) -> WeightNames:
    names = {
        **outer_names("decoder", "decoder.embeddings", "decoder"),
        **table("decoder.head.table", "lm_head"),
        "decoder.head.bias": ("final_logits_bias",),
    }
    for index in range(len(decoder.layers)):
        layer = f"decoder.layers.{index}"
        cross = f"{layer}.encoder_attn"
        names |= {
            **layer_names(layer, layer),
            **linear(f"{layer}.cross_attention.q", f"{cross}.q_proj"),
            **linear(f"{layer}.cross_attention.kv", f"{cross}.k_proj", f"{cross}.v_proj"),
            **linear(f"{layer}.cross_attention.out", f"{cross}.out_proj"),
            **norm(f"{layer}.cross_attention_norm", f"{layer}.encoder_attn_layer_norm"),
        }
    return names
