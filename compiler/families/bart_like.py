"""What BART's relatives share: its layers, its weight names, and a form that tells one from another."""

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
    TiedEmbeddings,
    WeightNames,
    linear,
    norm,
    table,
)
from precast.compiler.models import spec

NORM = spec.Norm("layer", 1e-5)
TABLES = ("shared.weight", "lm_head.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True)
class BartVariant:
    """How a family builds its two halves.

    ``pre`` brings a norm behind the last layer. ``embedding_norm`` says whether the embeddings are normed,
    and where: ``first`` norms the decoder's tokens before their positions are added.
    """

    placement: Literal["post", "pre"]
    positions: Callable[[ConfigReader], spec.Positions]
    embedding_norm: Literal["none", "sum", "first"] = "none"

    @property
    def final_norm(self) -> spec.Norm | None:
        return NORM if self.placement == "pre" else None


def learned(config: ConfigReader, offset: int) -> spec.Positions:
    return spec.Positions(config.max_position_embeddings + offset, offset=offset)


def sinusoidal(config: ConfigReader) -> spec.Positions:
    return spec.Positions(config.max_position_embeddings, sinusoidal="halves")


def family(
    name: str,
    form: BartVariant,
    *architectures: str,
    model_type: str | None = None,
    head_bias: str | None = "final_logits_bias",
    overflows_fp16: bool = False,
) -> Family:
    """A family of this form.

    Args:
        name: of the family, and of its ``model_type`` where that is not given.
        form: of its halves.
        *architectures: HF's classes that generate.
        model_type: in ``config.json``.
        head_bias: under which name the bias of the logits is stored; ``None`` if there is none.
        overflows_fp16: as ``Family.overflows_fp16``.
    """
    # Marks of fairseq's converters; a computed table needs no stored copy, and M2M100 calls its "weights".
    unread = ("encoder.version", "decoder.version", "*.embed_positions.weight*")
    return Family(
        name=name,
        model_types=(model_type or name,),
        prefix="model",
        backbone=partial(backbone, form=form),
        weights=weights,
        dropped=(
            *unread,
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
            decoder=partial(decoder, form=form),
            weights=decoder_weights,
            head_bias=head_bias,
            dropped=(*unread, *TABLES),
        ),
        overflows_fp16=overflows_fp16,
    )


def backbone(config: ConfigReader, form: BartVariant) -> Backbone:
    config.require(is_decoder=False)
    config.ignore("init_std", "encoder_layerdrop", "decoder_layerdrop")
    # Those of the decoder; what it generates besides is for whoever runs the two halves.
    config.ignore("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "decoder_vocab_size")
    config.ignore("share_encoder_decoder_embeddings", "forced_eos_token_id", "encoder_no_repeat_ngram_size")
    layer = spec.Layer(
        attention=attention(config, config.encoder_attention_heads),
        feed_forward=spec.FeedForward(config.encoder_ffn_dim, config.activation("activation_function")),
        norm=NORM,
        placement=form.placement,
    )
    depth = config.encoder_layers
    return Backbone(
        hidden_size=config.d_model,
        embeddings=embeddings(config, form),
        encoder=spec.Stack((layer,) * depth, tuple(range(depth)), final_norm=form.final_norm),
    )


def embeddings(config: ConfigReader, form: BartVariant) -> spec.Embeddings:
    """Those of the encoder."""
    return spec.Embeddings(
        vocab_size=config.vocab_size,
        size=config.d_model,
        positions=form.positions(config),
        norm=None if form.embedding_norm == "none" else NORM,
        scale=math.sqrt(config.d_model) if config.scale_embedding else 1.0,
    )


def attention(config: ConfigReader, heads: int) -> spec.Attention:
    head_dim = config.d_model // heads
    return spec.Attention(heads=heads, kv_heads=heads, head_dim=head_dim, scale=head_dim**-0.5)


def decoder(config: ConfigReader, stored: TiedEmbeddings, form: BartVariant) -> spec.Decoder:
    shares = config.share_encoder_decoder_embeddings is not False  # Marian alone has it
    vocab = config.vocab_size if shares else config.decoder_vocab_size
    across = attention(config, config.decoder_attention_heads)
    layer = spec.DecoderLayer(
        attention=replace(across, window=(None, 0)),
        cross_attention=across,
        feed_forward=spec.FeedForward(config.decoder_ffn_dim, config.activation("activation_function")),
        norm=NORM,
        placement=form.placement,
    )
    first, source = form.embedding_norm == "first", embeddings(config, form)
    return spec.Decoder(
        embeddings=replace(
            source,
            vocab_size=vocab,
            norm_first=first,
            # Where a norm comes first HF leaves the factor out, which the norm undoes but for its epsilon.
            scale=1.0 if first else source.scale,
        ),
        shared_tokens=not stored.tokens,
        layers=(layer,) * config.decoder_layers,
        head=spec.LanguageHead(vocab, tied=not stored.head, bias=stored.bias),
        final_norm=form.final_norm,
    )


def half_names(target: str, embeddings: str, source: str) -> WeightNames:
    """What stands around the layers of one half."""
    return {
        **table(f"{embeddings}.tokens", f"{source}.embed_tokens"),
        **table(f"{embeddings}.positions", f"{source}.embed_positions"),
        **norm(f"{embeddings}.norm", f"{source}.layernorm_embedding"),
        **norm(f"{target}.final_norm", f"{source}.layer_norm"),
    }


def layer_names(target: str, source: str) -> WeightNames:
    """What a layer of either half has."""
    own = f"{source}.self_attn"
    return {
        **linear(f"{target}.attention.qkv", *(f"{own}.{part}_proj" for part in "qkv")),
        **linear(f"{target}.attention.out", f"{own}.out_proj"),
        **norm(f"{target}.attention_norm", f"{source}.self_attn_layer_norm"),
        **linear(f"{target}.feed_forward.up", f"{source}.fc1"),
        **linear(f"{target}.feed_forward.down", f"{source}.fc2"),
        **norm(f"{target}.feed_forward_norm", f"{source}.final_layer_norm"),
    }


def weights(model: Backbone) -> WeightNames:
    names = dict(half_names("encoder", "embeddings", "encoder"))
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"encoder.layers.{index}")
    return names


def decoder_weights(decoder: spec.Decoder) -> WeightNames:
    names = {
        **half_names("decoder", "decoder.embeddings", "decoder"),
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
