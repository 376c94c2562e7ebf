"""Every weight of a checkpoint is used or dropped explicitly, and every parameter is set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from precast.compiler.errors import CompileError, UnsetParameterError, UnusedWeightError, WeightValueError
from precast.compiler.models.build import Built
from precast.compiler.models.encode import Encode
from precast.compiler.models.spec import ModelSpec
from tests.support.artifacts import tiny_config
from tests.support.models import build, save

Weights = dict[str, Tensor]

QUERY = "encoder.layer.0.attention.self.query.weight"
NORM = "encoder.layer.0.output.LayerNorm.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=6,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=7,
        max_position_embeddings=9,
    )
    return save(BertModel(config), tmp_path)


def built(checkpoint: Path, change: Callable[[Weights], Weights]) -> Built[ModelSpec, Encode]:
    """Return the model of ``checkpoint``, built after ``change`` is applied to its weights."""
    file = checkpoint / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in change(load_file(file)).items()}, file)
    return build(checkpoint, "hidden")


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


def with_value(name: str, tensor: Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: tensor}


def same_parameters(left: Built[ModelSpec, Encode], right: Built[ModelSpec, Encode]) -> bool:
    ours, theirs = left.module.state_dict(), right.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "change, error, named",
    [
        pytest.param(
            with_value("encoder.extra", torch.ones(2)), UnusedWeightError, "encoder.extra", id="extra"
        ),
        pytest.param(
            with_value("encoder.layer.1.output.dense.weight", torch.ones(6, 7)),
            UnusedWeightError,
            "encoder.layer.1.output.dense.weight",
            id="more layers than the configuration says",
        ),
        pytest.param(without(QUERY), UnsetParameterError, QUERY, id="missing part of a joined weight"),
        pytest.param(without(NORM), UnsetParameterError, NORM, id="missing"),
        pytest.param(
            with_value(NORM, torch.ones(5)), WeightValueError, "feed_forward_norm.weight", id="shape"
        ),
        pytest.param(
            with_value(QUERY, torch.ones(6, 5)), WeightValueError, "attention.qkv.weight", id="join"
        ),
        pytest.param(
            with_value(NORM, torch.full((6,), torch.nan)),
            WeightValueError,
            "feed_forward_norm.weight",
            id="nan",
        ),
        pytest.param(
            with_value(NORM, torch.ones(6, dtype=torch.int32)),
            WeightValueError,
            "feed_forward_norm.weight",
            id="integers",
        ),
        pytest.param(with_value(f"bert.{QUERY}", torch.ones(6, 6)), UnusedWeightError, "'bert'", id="twice"),
    ],
)
def test_a_wrong_weight_is_named_in_the_error(
    checkpoint: Path, change: Callable[[Weights], Weights], error: type[CompileError], named: str
) -> None:
    with pytest.raises(error) as caught:
        built(checkpoint, change)
    assert named in str(caught.value)


def test_dropped_weights_are_listed(checkpoint: Path) -> None:
    model = built(checkpoint, with_value("embeddings.position_ids", torch.arange(9)[None]))
    assert model.dropped == ("embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight")


def test_the_prefix_of_full_models_makes_no_difference(checkpoint: Path) -> None:
    plain = built(checkpoint, lambda weights: weights)
    prefixed = built(checkpoint, lambda weights: {f"bert.{name}": t for name, t in weights.items()})
    assert same_parameters(plain, prefixed)


def test_norms_may_be_named_gamma_and_beta(checkpoint: Path) -> None:
    def old_name(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    plain = built(checkpoint, lambda weights: weights)
    old = built(checkpoint, lambda weights: {old_name(name): tensor for name, tensor in weights.items()})
    assert same_parameters(plain, old)


@pytest.mark.parametrize("stray", [{"is_causal": True}, {"per_layer_config": {"0": {"hidden_act": "relu"}}}])
def test_values_outside_the_fields_of_the_class_are_named_in_the_error(
    tmp_path: Path, stray: dict[str, object]
) -> None:
    """HF reads these values from any configuration, whatever its class."""
    folder = save(BertModel(tiny_config()), tmp_path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | stray), "utf-8")
    with pytest.raises(CompileError, match=next(iter(stray))):
        build(folder, "hidden")
