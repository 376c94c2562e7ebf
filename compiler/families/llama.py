"""Llama as an encoder, and the parts that similar decoder models share."""

from __future__ import annotations

from collections.abc import Sequence

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.families import rope
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

DROPPED = ("lm_head.*", "score.*", "rotary_emb.inv_freq", "layers.*.self_attn.rotary_emb.inv_freq")


def is_causal(config: ConfigReader) -> bool:
    """Whether attention is causal: with ``is_causal: false`` HF runs a decoder model as an encoder."""
    config.ignore("is_causal")  # read below, where null differs from absent
    value = getattr(config.source, "is_causal", True)
    if not isinstance(value, bool):
        # HF's mask and HF's attention kernel interpret null differently.
        raise UnsupportedConfigError(
            f"{config.source.model_type}: is_causal={value!r} is not supported, only True and False"
        )
    return value


def windows(config: ConfigReader, types: Sequence[str]) -> tuple[spec.Window, ...]:
    """The window of each layer. HF counts a query's own position in a causal window, but not in a
    bidirectional one."""
    causal = is_causal(config)
    if rope.SLIDING not in types:
        return ((None, 0 if causal else None),) * len(types)
    size = config.sliding_window
    if not size:
        raise UnsupportedConfigError(
            f"{config.source.model_type}: sliding_window={size!r} is not supported with sliding layers"
        )
    sliding, full = ((size - 1, 0), (None, 0)) if causal else ((size, size), (None, None))
    return tuple(sliding if kind == rope.SLIDING else full for kind in types)


def pre_norm_backbone(
    config: ConfigReader,
    layer_windows: Sequence[spec.Window],
    *,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> Backbone:
    """Llama's layers, which Mistral and Qwen3 share."""
    rms = spec.NormSpec("rms", config.rms_norm_eps, bias=False)
    rotary = rope.rotary(config, config.head_dim)
    feed_forward = spec.FeedForwardSpec(
        config.intermediate_size, config.activation("hidden_act"), gated=True, bias=mlp_bias
    )
    layers = tuple(
        spec.LayerSpec(
            attention=spec.AttentionSpec(
                heads=config.num_attention_heads,
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                scale=config.head_dim**-0.5,
                qkv_bias=attention_bias,
                out_bias=attention_bias,
                window=window,
                rotary=rotary,
                qk_norm=rms if qk_norm else None,
            ),
            feed_forward=feed_forward,
            norm=rms,
            placement="pre",
        )
        for window in layer_windows
    )
    return Backbone(
        hidden_size=config.hidden_size,
        embeddings=spec.EmbeddingsSpec(vocab_size=config.vocab_size, size=config.hidden_size),
        encoder=spec.StackSpec(layers, tuple(range(len(layers))), final_norm=rms),
    )


def backbone(config: ConfigReader) -> Backbone:
    return pre_norm_backbone(
        config,
        windows(config, (rope.FULL,) * config.num_hidden_layers),
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
    )


def layer_names(target: str, source: str) -> WeightNames:
    attention = [f"{source}.self_attn.{part}_proj" for part in "qkv"]
    return {
        **norm(f"{target}.attention_norm", f"{source}.input_layernorm"),
        **linear(f"{target}.attention.qkv", *attention),
        **linear(f"{target}.attention.out", f"{source}.self_attn.o_proj"),
        **norm(f"{target}.attention.q_norm", f"{source}.self_attn.q_norm"),
        **norm(f"{target}.attention.k_norm", f"{source}.self_attn.k_norm"),
        **norm(f"{target}.feed_forward_norm", f"{source}.post_attention_layernorm"),
        **linear(f"{target}.feed_forward.up", f"{source}.mlp.gate_proj", f"{source}.mlp.up_proj"),
        **linear(f"{target}.feed_forward.down", f"{source}.mlp.down_proj"),
    }


def weights(model: Backbone) -> WeightNames:
    names = {**table("embeddings.tokens", "embed_tokens"), **norm("encoder.final_norm", "norm")}
    for index in range(len(model.encoder.layers)):
        names |= layer_names(f"encoder.layers.{index}", f"layers.{index}")
    return names


def sequence_head(config: ConfigReader) -> Head:
    return Head(
        spec.ClassifierSpec(
            labels=num_labels(config), bias=False, pick="last", padding_idx=config.pad_token_id
        ),
        linear("head.out", "score"),
    )


def token_head(config: ConfigReader) -> Head:
    bias = config.token_classification_bias is not False
    return Head(
        spec.ClassifierSpec(labels=num_labels(config), bias=bias, pick=None), linear("head.out", "score")
    )


FAMILY = Family(
    name="llama",
    model_types=("llama",),
    prefix="model",
    backbone=backbone,
    weights=weights,
    sequence_head=sequence_head,
    token_head=token_head,
    dropped=DROPPED,
)
