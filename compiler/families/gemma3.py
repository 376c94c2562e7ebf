"""The text model of Gemma 3: norms before and after each block, local and global layers."""

from __future__ import annotations

from precast.compiler.families import llama, rope
from precast.compiler.families.config import ConfigReader
from precast.compiler.families.family import Backbone, Family, WeightNames, norm
from precast.compiler.models import spec


def windows(config: ConfigReader, types: tuple[str, ...]) -> tuple[spec.Window, ...]:
    """Llama's windows, extended as far to the right as to the left by ``use_bidirectional_attention``."""
    causal = llama.windows(config, types)
    if not config.use_bidirectional_attention:
        return causal
    return tuple((left, left) for left, _ in causal)


def backbone(config: ConfigReader) -> Backbone:
    config.require(attn_logit_softcapping=None)
    config.ignore("final_logit_softcapping", "sliding_window")
    types = rope.layer_types(config)
    rms = spec.NormSpec("rms", config.rms_norm_eps, bias=False, weight_offset=1.0)
    rotary = {kind: rope.rotary(config, config.head_dim, kind) for kind in types}
    feed_forward = spec.FeedForwardSpec(
        config.intermediate_size, config.activation("hidden_activation"), gated=True, bias=False
    )
    layers = tuple(
        spec.LayerSpec(
            attention=spec.AttentionSpec(
                heads=config.num_attention_heads,
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                scale=config.query_pre_attn_scalar**-0.5,
                qkv_bias=config.attention_bias,
                out_bias=config.attention_bias,
                window=window,
                rotary=rotary[kind],
                qk_norm=rms,
            ),
            feed_forward=feed_forward,
            norm=rms,
            placement="sandwich",
        )
        for kind, window in zip(types, windows(config, types), strict=True)
    )
    return Backbone(
        hidden_size=config.hidden_size,
        embeddings=spec.EmbeddingsSpec(
            vocab_size=config.vocab_size, size=config.hidden_size, scale=config.hidden_size**0.5
        ),
        encoder=spec.StackSpec(layers, tuple(range(len(layers))), final_norm=rms),
    )


def weights(model: Backbone) -> WeightNames:
    names = dict(llama.weights(model))
    for index in range(len(model.encoder.layers)):
        target, source = f"encoder.layers.{index}", f"layers.{index}"
        names |= {
            **norm(f"{target}.attention_out_norm", f"{source}.post_attention_layernorm"),
            **norm(f"{target}.feed_forward_norm", f"{source}.pre_feedforward_layernorm"),
            **norm(f"{target}.feed_forward_out_norm", f"{source}.post_feedforward_layernorm"),
        }
    return names


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3_text",),
    prefix="model",
    backbone=backbone,
    weights=weights,
    sequence_head=llama.sequence_head,
    dropped=llama.DROPPED,
    overflows_fp16=True,
)
