"""Models like BERT through the reference backend against Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)

from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.frontend.checkpoint import read_weights
from precast.graphs.encode import Task
from tests.support.models import assert_as_hf, build, hf_outputs, reference_outputs, save
from tests.support.strategies import batches

VOCAB = 61
LONGEST = 33
PADDING_IDS = (0, 1, 5)

MODEL_TYPES = {
    "roberta": ("roberta", "xlm-roberta", "camembert"),
    "distilbert": ("distilbert",),
    "mpnet": ("mpnet",),
    "electra": ("electra",),
    "albert": ("albert",),
}
ALL_TYPES = [name for names in MODEL_TYPES.values() for name in names]
DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}


def tiny(model_type: str, **values: Any) -> PreTrainedConfig:
    """Return a configuration, given by BERT's names of values.

    Weights are larger than HF's default of 0.02, with which a wrong bias or scale in the attention would
    change the output by less than the tolerance.
    """
    settings_by_name: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 14,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 20,
        "initializer_range": 0.3,
        **values,
    }
    if model_type == "distilbert":
        settings_by_name = {
            DISTILBERT_NAMES.get(name, name): value for name, value in settings_by_name.items()
        }
    return AutoConfig.for_model(model_type, **settings_by_name)


@st.composite
def configs(draw: st.DrawFn, family: str) -> PreTrainedConfig:
    heads = draw(st.sampled_from([1, 2, 3]))
    hidden = heads * draw(st.sampled_from([4, 7, 16]))
    depth = draw(st.integers(1, 3))
    padding_idx = draw(st.sampled_from(PADDING_IDS))
    # Rows of the position table before that of the first token.
    offset = {"roberta": padding_idx + 1, "mpnet": 2}.get(family, 0)
    values: dict[str, Any] = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "intermediate_size": draw(st.sampled_from([5, 32])),
        "max_position_embeddings": LONGEST + offset + draw(st.sampled_from([0, 7])),
        "hidden_act": draw(st.sampled_from(["gelu", "relu", "gelu_new", "silu"])),
        "pad_token_id": padding_idx,
        "num_labels": draw(st.integers(1, 4)),
    }
    if family == "distilbert":
        values["sinusoidal_pos_embds"] = draw(st.booleans())
    else:
        values["layer_norm_eps"] = draw(st.sampled_from([1e-12, 0.1]))
    if family in ("roberta", "electra", "albert"):
        values["type_vocab_size"] = draw(st.integers(1, 3))
    if family in ("electra", "albert"):
        values["embedding_size"] = draw(st.sampled_from([hidden, 6]))
    if family == "mpnet":
        values["relative_attention_num_buckets"] = draw(st.sampled_from([32, 40]))
    if family == "electra":
        values["summary_type"] = draw(st.sampled_from(["first", "last"]))
    if family == "albert":
        values["num_hidden_groups"] = draw(st.integers(1, depth))
        values["inner_group_num"] = draw(st.integers(1, 2))
    return tiny(draw(st.sampled_from(MODEL_TYPES[family])), **values)


@pytest.mark.parametrize("family", MODEL_TYPES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 99))
def test_hidden_states(family: str, data: st.DataObject, seed: int) -> None:
    config = data.draw(configs(family))
    batch = data.draw(batches(VOCAB, LONGEST, frequent=PADDING_IDS))
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    path = save(model)
    assert_as_hf(reference_outputs(path, "hidden", batch), model, batch, "last_hidden_state")


@pytest.mark.parametrize(
    "task, auto",
    [("classify", AutoModelForSequenceClassification), ("token-classify", AutoModelForTokenClassification)],
)
@pytest.mark.parametrize("family", MODEL_TYPES)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 99))
def test_logits(family: str, task: Task, auto: Any, data: st.DataObject, seed: int) -> None:
    config = data.draw(configs(family))
    batch = data.draw(batches(VOCAB, LONGEST, frequent=PADDING_IDS))
    torch.manual_seed(seed)
    model = auto.from_config(config)
    path = save(model)
    assert_as_hf(reference_outputs(path, task, batch), model, batch, "logits")


@pytest.mark.parametrize("model_type", ALL_TYPES)
def test_hidden_states_of_masked_language_models(model_type: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(tiny(model_type))
    path = save(model, tmp_path)
    batch = [[7], [3, 1, 4, 1, 5, 9, 2, 6], [0, 60]]
    backbone = getattr(model, model.base_model_prefix)
    assert_as_hf(reference_outputs(path, "hidden", batch), backbone, batch, "last_hidden_state")
    head = {name for name in read_weights(path) if not name.startswith(f"{model.base_model_prefix}.")}
    assert head and set(build(path, "hidden").dropped) == head


def test_mpnet_distances_beyond_the_last_bucket(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = AutoModel.from_config(tiny("mpnet", max_position_embeddings=190))
    path = save(model, tmp_path)
    batch = [torch.randint(2, VOCAB, (length,)).tolist() for length in (1, 129, 180)]
    assert_as_hf(reference_outputs(path, "hidden", batch), model, batch, "last_hidden_state")


@pytest.mark.parametrize("layers, groups, inner", [(5, 3, 1), (4, 2, 2), (1, 1, 3), (18, 14, 1)])
def test_albert_layers_share_parameters_as_in_hf(
    layers: int, groups: int, inner: int, tmp_path: Path
) -> None:
    """For 18 layers in 14 groups, HF's rounded division differs from integer division for one layer."""
    torch.manual_seed(5)
    config = tiny("albert", num_hidden_layers=layers, num_hidden_groups=groups, inner_group_num=inner)
    model = AutoModel.from_config(config)
    used: list[str] = []
    for name, module in model.named_modules():
        if type(module).__name__ == "AlbertLayer":
            module.register_forward_hook(lambda *_, name=name: used.append(name))
    hf_outputs(model, [[1, 2]], "last_hidden_state")
    stack = build(save(model, tmp_path), "hidden").spec.encoder
    assert [used.index(name) for name in used] == list(stack.parameters_of)
    assert len(set(stack.parameters_of)) == groups * inner


@pytest.mark.parametrize(
    "model_type, name, value",
    [
        ("roberta", "is_decoder", True),
        ("xlm-roberta", "add_cross_attention", True),
        ("camembert", "pad_token_id", None),
        ("distilbert", "activation", "mish"),
        ("mpnet", "relative_attention_num_buckets", 31),
        ("mpnet", "hidden_act", "mish"),
        ("electra", "is_decoder", True),
        ("albert", "hidden_act", "mish"),
    ],
)
def test_an_unsupported_value_is_named_in_the_error(
    model_type: str, name: str, value: object, tmp_path: Path
) -> None:
    tiny(model_type, **{name: value}).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedConfigError, match=f"{model_type}: {name}={value!r} is not supported"):
        build(tmp_path, "hidden")
