"""Tiny encoder-decoders of every family with well separated scores."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from transformers import PreTrainedModel

T5_LIKE = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
BART_LIKE = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "plbart": "PLBartForConditionalGeneration",
    "pegasus": "PegasusForConditionalGeneration",
    "marian": "MarianMTModel",
    "m2m_100": "M2M100ForConditionalGeneration",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "blenderbot_small": "BlenderbotSmallForConditionalGeneration",
}
EVERY_CLASS = T5_LIKE | BART_LIKE


def spread_t5(vocab_size: int, seed: int = 0, **values: Any) -> PreTrainedModel:
    """A T5 with weights so large that targets end early, late or never, and few beams score equally."""
    config = transformers.T5Config(
        vocab_size=vocab_size, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        decoder_start_token_id=0, eos_token_id=1, pad_token_id=0, **values,
    )  # fmt: skip
    model = _spread(transformers.T5ForConditionalGeneration(config), seed)
    model.shared.weight.data.mul_(4)
    return model


@st.composite
def seq2seq_models(draw: st.DrawFn, family: str, vocab_size: int) -> PreTrainedModel:
    """Random models; encoder and decoder differ where possible, and some head sizes are odd."""
    values = draw(t5_values() if family in T5_LIKE else bart_values(family))
    values |= {"vocab_size": vocab_size}
    kind = getattr(transformers, EVERY_CLASS[family])
    return _spread(kind(kind.config_class(**values)), draw(st.integers(0, 99)))


@st.composite
def t5_values(draw: st.DrawFn) -> dict[str, Any]:
    # Hugging Face's cache has as many layers as the encoder and fails if the decoder has more.
    layers = draw(st.integers(1, 3))
    # Hugging Face fails if half of the buckets extend beyond the largest distance.
    buckets, distance = draw(st.sampled_from([(8, 12), (8, 128), (32, 128)]))
    # T5 1.1 is gated and untied.
    return {
        "d_model": draw(st.sampled_from([16, 24])),
        "d_kv": draw(st.sampled_from([5, 8])),
        "d_ff": 32,
        "num_layers": layers,
        "num_decoder_layers": draw(st.integers(1, layers)),
        "num_heads": draw(st.sampled_from([1, 3])),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": distance,
        "feed_forward_proj": draw(st.sampled_from(["relu", "gated-gelu"])),
        "tie_word_embeddings": draw(st.booleans()),
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


@st.composite
def bart_values(draw: st.DrawFn, family: str) -> dict[str, Any]:
    half = {"layers": st.integers(1, 2), "attention_heads": st.sampled_from([1, 3])}
    sides = {
        f"{side}_{name}": draw(values) for side in ("encoder", "decoder") for name, values in half.items()
    }
    return {
        **sides,
        "d_model": draw(st.sampled_from([18, 21, 24])),
        "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 28,
        "max_position_embeddings": 40,
        "activation_function": draw(st.sampled_from(["gelu", "relu", "swish"])),
        "scale_embedding": draw(st.booleans()),
        "pad_token_id": draw(st.sampled_from([0, 1, 4])) if family == "m2m_100" else 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": draw(st.sampled_from([0, 2])),
        "forced_eos_token_id": draw(st.sampled_from([None, 2])),
    }


def _spread(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        # Sinusoidal tables are computed and not part of a checkpoint.
        if "Sinusoidal" not in type(module).__name__:
            for parameter in module.parameters(recurse=False):
                parameter.data.normal_(0, 0.35, generator=generator)
    return model.eval()
