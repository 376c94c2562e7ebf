"""Encoders of ModernBERT, Llama, Mistral, Qwen3, Gemma 3 and T5 compared with Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    Gemma3TextModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralForSequenceClassification,
    MistralForTokenClassification,
    MistralModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
    MT5Config,
    MT5EncoderModel,
    MT5ForConditionalGeneration,
    MT5ForTokenClassification,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5ForTokenClassification,
    UMT5Config,
    UMT5EncoderModel,
    UMT5ForConditionalGeneration,
    UMT5ForTokenClassification,
)

from precast.compiler.errors import UnsupportedConfigError, UnsupportedModelError
from tests.support.models import assert_as_hf, build, reference_outputs, save
from tests.support.strategies import Batch, batches

VOCAB = 61
PAD = 5
SPREAD = 0.3
"""Standard deviation of initial weights. With HF's 0.02 attention is uniform, which would hide errors."""

LONG = [[(7 * i) % VOCAB for i in range(40)]]
ENDS_IN_PADDING = [[3, PAD, PAD], [PAD, 8, PAD, 9], [PAD], [PAD, PAD]]


@st.composite
def rope_parameters(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["default", "linear", "llama3", "yarn"]))
    theta = draw(st.sampled_from([50.0, 10_000.0]))
    parameters: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    if kind != "default":
        parameters["factor"] = draw(st.sampled_from([2.0, 8.0]))
    if kind == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        parameters["original_max_position_embeddings"] = 64
    if kind == "yarn":
        parameters |= {"original_max_position_embeddings": 16, "beta_fast": 4.0}
        parameters |= draw(
            st.sampled_from([{}, {"attention_factor": 1.3}, {"mscale": 2.0, "mscale_all_dim": 0.7}])
        )
    return parameters


def per_layer_type() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"full_attention": rope_parameters(), "sliding_attention": rope_parameters()}
    )


def layer_types(depth: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=depth, max_size=depth)


@st.composite
def decoder_sizes(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": heads * draw(st.sampled_from([4, 7])),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw(st.sampled_from([2, 6, 10])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.sampled_from([5, 24])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "pad_token_id": draw(st.sampled_from([None, PAD])),
        "tie_word_embeddings": draw(st.booleans()),
        "num_labels": draw(st.integers(1, 4)),
        "initializer_range": SPREAD,
    }
    return sizes | draw(st.sampled_from([{}, {"is_causal": False}, {"is_causal": True}]))


@st.composite
def llama_configs(draw: st.DrawFn) -> LlamaConfig:
    return LlamaConfig(
        **draw(decoder_sizes()),
        hidden_act=draw(st.sampled_from(["silu", "gelu_pytorch_tanh"])),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rope_parameters=draw(rope_parameters()),
    )


@st.composite
def mistral_configs(draw: st.DrawFn) -> MistralConfig:
    return MistralConfig(
        **draw(decoder_sizes()),
        sliding_window=draw(st.one_of(st.none(), st.integers(1, 9))),
        rope_parameters=draw(rope_parameters()),
    )


@st.composite
def qwen3_configs(draw: st.DrawFn) -> Qwen3Config:
    sizes = draw(decoder_sizes())
    window_layers = st.one_of(
        st.just({"use_sliding_window": False}),
        st.fixed_dictionaries({"max_window_layers": st.integers(0, 2)}),
        st.fixed_dictionaries({"layer_types": layer_types(sizes["num_hidden_layers"])}),
    )
    windows = {"use_sliding_window": True, "sliding_window": draw(st.integers(1, 9))} | draw(window_layers)
    return Qwen3Config(
        **sizes, **windows, attention_bias=draw(st.booleans()), rope_parameters=draw(rope_parameters())
    )


@st.composite
def gemma3_configs(draw: st.DrawFn) -> Gemma3TextConfig:
    sizes = draw(decoder_sizes())
    return Gemma3TextConfig(
        **sizes,
        layer_types=draw(layer_types(sizes["num_hidden_layers"])),
        sliding_window=draw(st.integers(2, 9)),
        use_bidirectional_attention=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        query_pre_attn_scalar=draw(st.sampled_from([1, 5, 256])),
        final_logit_softcapping=draw(st.sampled_from([None, 30.0])),
        rope_parameters=draw(per_layer_type()),
    )


@st.composite
def modernbert_configs(draw: st.DrawFn) -> ModernBertConfig:
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    pattern = draw(
        st.one_of(
            st.just({"global_attn_every_n_layers": 2}),
            st.fixed_dictionaries({"layer_types": layer_types(depth)}),
        )
    )
    values: dict[str, Any] = {
        **pattern,
        "vocab_size": VOCAB,
        "hidden_size": heads * draw(st.sampled_from([4, 6, 10])),
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "intermediate_size": draw(st.sampled_from([5, 24])),
        "hidden_activation": draw(st.sampled_from(["gelu", "relu"])),
        "local_attention": draw(st.integers(1, 9)),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "norm_bias": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "decoder_bias": draw(st.booleans()),
        "classifier_bias": draw(st.booleans()),
        "classifier_activation": draw(st.sampled_from(["gelu", "tanh"])),
        "classifier_pooling": draw(st.sampled_from(["cls", "mean"])),
        "rope_parameters": draw(per_layer_type()),
        "pad_token_id": PAD,
        "num_labels": draw(st.integers(1, 4)),
        "initializer_range": SPREAD,
    }
    return ModernBertConfig(**values)


T5_CLASSES: dict[str, tuple[Any, Any, Any, Any]] = {
    "t5": (T5Config, T5EncoderModel, T5ForTokenClassification, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5EncoderModel, MT5ForTokenClassification, MT5ForConditionalGeneration),
    "umt5": (UMT5Config, UMT5EncoderModel, UMT5ForTokenClassification, UMT5ForConditionalGeneration),
}


@st.composite
def t5_configs(draw: st.DrawFn, kind: str) -> PreTrainedConfig:
    buckets = draw(st.sampled_from([4, 7, 8, 32]))
    return T5_CLASSES[kind][0](
        vocab_size=VOCAB,
        d_model=draw(st.sampled_from([5, 16])),
        d_kv=draw(st.sampled_from([3, 8])),
        d_ff=draw(st.sampled_from([7, 24])),
        num_heads=draw(st.integers(1, 3)),
        num_layers=draw(st.integers(1, 3)),
        num_decoder_layers=draw(st.integers(1, 2)),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=draw(st.sampled_from([9, 20, 128])),
        feed_forward_proj=draw(st.sampled_from(["relu", "gelu", "gated-gelu", "gated-silu"])),
        layer_norm_epsilon=draw(st.sampled_from([1e-6, 1e-2])),
        num_labels=draw(st.integers(1, 4)),
        tie_word_embeddings=draw(st.booleans()),
    )


CONFIGS: dict[str, st.SearchStrategy[PreTrainedConfig]] = {
    "modernbert": modernbert_configs(),
    "llama": llama_configs(),
    "mistral": mistral_configs(),
    "qwen3": qwen3_configs(),
    "gemma3": gemma3_configs(),
    **{kind: t5_configs(kind) for kind in T5_CLASSES},
}
BACKBONES: dict[str, Any] = {
    "modernbert": ModernBertModel,
    "llama": LlamaModel,
    "mistral": MistralModel,
    "qwen3": Qwen3Model,
    "gemma3": Gemma3TextModel,
    **{kind: classes[1] for kind, classes in T5_CLASSES.items()},
}
SEQUENCE_MODELS: dict[str, Any] = {
    "modernbert": ModernBertForSequenceClassification,
    "llama": LlamaForSequenceClassification,
    "mistral": MistralForSequenceClassification,
    "qwen3": Qwen3ForSequenceClassification,
    "gemma3": Gemma3TextForSequenceClassification,
}
TOKEN_MODELS: dict[str, Any] = {
    "modernbert": ModernBertForTokenClassification,
    "llama": LlamaForTokenClassification,
    "mistral": MistralForTokenClassification,
    "qwen3": Qwen3ForTokenClassification,
    **{kind: classes[2] for kind, classes in T5_CLASSES.items()},
}
LANGUAGE_MODELS: dict[str, Any] = {
    "modernbert": ModernBertForMaskedLM,
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "gemma3": Gemma3ForCausalLM,
}

RAGGED = batches(VOCAB, frequent=(PAD,))
QUIET = [HealthCheck.too_slow]


@pytest.mark.parametrize("family", CONFIGS)
@settings(max_examples=5, deadline=None, suppress_health_check=QUIET)
@given(data=st.data(), batch=RAGGED, seed=st.integers(0, 99))
def test_hidden_states(family: str, data: st.DataObject, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = BACKBONES[family](data.draw(CONFIGS[family]))
    sequences = batch + LONG
    outputs = reference_outputs(save(model), "hidden", sequences)
    assert_as_hf(outputs, model, sequences, "last_hidden_state")


@pytest.mark.parametrize("family", SEQUENCE_MODELS)
@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(data=st.data(), batch=RAGGED, seed=st.integers(0, 99))
def test_sequence_logits(family: str, data: st.DataObject, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = SEQUENCE_MODELS[family](data.draw(CONFIGS[family]))
    sequences = batch + ENDS_IN_PADDING
    outputs = reference_outputs(save(model), "classify", sequences)
    assert_as_hf(outputs, model, sequences, "logits")


@pytest.mark.parametrize("family", TOKEN_MODELS)
@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@given(data=st.data(), batch=RAGGED, seed=st.integers(0, 99))
def test_token_logits(family: str, data: st.DataObject, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = TOKEN_MODELS[family](data.draw(CONFIGS[family]))
    outputs = reference_outputs(save(model), "token-classify", batch)
    assert_as_hf(outputs, model, batch, "logits")


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@given(data=st.data(), batch=RAGGED)
def test_a_language_model_as_an_encoder(family: str, data: st.DataObject, batch: Batch) -> None:
    model = LANGUAGE_MODELS[family](data.draw(CONFIGS[family]))
    outputs = reference_outputs(save(model), "hidden", batch)
    assert_as_hf(outputs, model.model, batch, "last_hidden_state")


@pytest.mark.parametrize("kind", T5_CLASSES)
@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@given(data=st.data(), batch=RAGGED)
def test_the_encoder_of_a_full_t5(kind: str, data: st.DataObject, batch: Batch) -> None:
    model = T5_CLASSES[kind][3](data.draw(CONFIGS[kind]))
    path = save(model)
    dropped = build(path, "hidden").dropped
    assert dropped and all(name.startswith(("decoder.", "lm_head.", "shared.")) for name in dropped)
    assert_as_hf(reference_outputs(path, "hidden", batch), model.encoder, batch, "last_hidden_state")


SMALL_T5: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 8,
    "num_heads": 2,
    "num_layers": 1,
}
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("stored", ["shared", "encoder.embed_tokens", "both, equal", "both, different"])
def test_t5_embeddings_under_either_name(tmp_path: Path, stored: str) -> None:
    path = save(T5EncoderModel(T5Config(**SMALL_T5)), tmp_path)
    tensors = load_file(path / "model.safetensors")
    table = tensors.pop("shared.weight")
    if stored.startswith("both"):
        other = table.clone() if stored == "both, equal" else table.flip(0).contiguous()
        tensors |= {"encoder.embed_tokens.weight": table, "shared.weight": other}
    else:
        tensors[f"{stored}.weight"] = table
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    model = T5EncoderModel.from_pretrained(path).eval()
    assert_as_hf(reference_outputs(path, "hidden", LONG), model, LONG, "last_hidden_state")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_old_rotary_buffers_are_dropped(tmp_path: Path, family: str) -> None:
    configs = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen3": Qwen3Config}
    config = configs[family](**SMALL, num_key_value_heads=1)
    path = save(LANGUAGE_MODELS[family](config), tmp_path)
    tensors = load_file(path / "model.safetensors")
    buffer = "model.layers.1.self_attn.rotary_emb.inv_freq"
    save_file(tensors | {buffer: torch.ones(2)}, path / "model.safetensors", metadata={"format": "pt"})
    built = build(path, "hidden")
    assert built.dropped == (buffer.removeprefix("model."), "lm_head.weight")


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **more}}


LONGROPE = rope(
    "longrope", short_factor=[1.0, 1.0], long_factor=[2.0, 2.0], original_max_position_embeddings=8
)
CAUSAL: dict[str, Any] = {"is_causal": True}
CAUSALITY_UNSET: dict[str, Any] = {"is_causal": None}
UNSUPPORTED: list[tuple[str, PreTrainedConfig]] = [
    ("rope_type='dynamic'", LlamaConfig(**SMALL, **rope("dynamic"))),
    ("rope_type='longrope'", MistralConfig(**SMALL, num_key_value_heads=1, **LONGROPE)),
    ("rope_type='proportional'", Qwen3Config(**SMALL, num_key_value_heads=1, **rope("proportional"))),
    ("partial_rotary_factor=0.5", LlamaConfig(**SMALL, **rope("linear", partial_rotary_factor=0.5))),
    ("head_dim=3", LlamaConfig(**SMALL, head_dim=3)),
    ("is_causal=None", LlamaConfig(**SMALL, **CAUSALITY_UNSET)),
    ("hidden_act='mish'", LlamaConfig(**SMALL, hidden_act="mish")),
    ("sliding_window=0", MistralConfig(**SMALL, num_key_value_heads=1, sliding_window=0)),
    ("sliding_window=None", Qwen3Config(**SMALL, layer_types=["sliding_attention", "full_attention"])),
    ("layer_types", Qwen3Config(**SMALL, layer_types=["chunked_attention", "full_attention"])),
    ("attn_logit_softcapping=50.0", Gemma3TextConfig(**SMALL, attn_logit_softcapping=50.0)),
    ("is_causal=True", ModernBertConfig(**SMALL, **CAUSAL, pad_token_id=0)),
    ("classifier_activation='mish'", ModernBertConfig(**SMALL, pad_token_id=0, classifier_activation="mish")),
    ("is_decoder=True", T5Config(**SMALL_T5, is_decoder=True)),
    ("is_causal=True", MT5Config(**SMALL_T5, **CAUSAL)),
    ("relative_attention_max_distance=8", UMT5Config(**SMALL_T5, relative_attention_max_distance=8)),
    ("dense_act_fn='mish'", T5Config(**SMALL_T5, feed_forward_proj="gated-mish")),
]


@pytest.mark.parametrize(("named", "config"), UNSUPPORTED, ids=[named for named, _ in UNSUPPORTED])
def test_an_unsupported_value_is_named_in_the_error(
    tmp_path: Path, named: str, config: PreTrainedConfig
) -> None:
    config.save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedConfigError) as raised:
        build(tmp_path, "classify" if "classifier" in named else "hidden")
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("config", "task"), [(T5Config(**SMALL_T5), "classify"), (Gemma3TextConfig(**SMALL), "token-classify")]
)
def test_a_task_without_a_head_is_rejected(tmp_path: Path, config: PreTrainedConfig, task: Any) -> None:
    config.save_pretrained(tmp_path)
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=task):
        build(tmp_path, task)
