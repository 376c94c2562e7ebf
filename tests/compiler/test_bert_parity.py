"""BERT through the reference backend against Hugging Face."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

from tests.support.models import assert_as_hf, reference_outputs, save
from tests.support.strategies import Batch, batches

VOCAB = 61


@st.composite
def configs(draw: st.DrawFn) -> BertConfig:
    heads = draw(st.sampled_from([1, 2, 3]))
    return BertConfig(
        vocab_size=VOCAB,
        hidden_size=heads * draw(st.sampled_from([4, 7, 16])),
        num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 3)),
        intermediate_size=draw(st.sampled_from([5, 32])),
        max_position_embeddings=draw(st.sampled_from([33, 64])),
        type_vocab_size=draw(st.integers(1, 3)),
        hidden_act=draw(st.sampled_from(["gelu", "relu", "gelu_new"])),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-5, 0.1])),
        initializer_range=0.3,  # with the default of 0.02 a wrong scale would be within the tolerance
        num_labels=draw(st.integers(1, 4)),
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(), batch=batches(VOCAB), seed=st.integers(0, 99))
def test_hidden_states(config: BertConfig, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = BertModel(config)
    path = save(model)
    assert_as_hf(reference_outputs(path, "hidden", batch), model, batch, "last_hidden_state")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(), batch=batches(VOCAB), seed=st.integers(0, 99))
def test_sequence_logits(config: BertConfig, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config)
    path = save(model)
    assert_as_hf(reference_outputs(path, "classify", batch), model, batch, "logits")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(), batch=batches(VOCAB), seed=st.integers(0, 99))
def test_token_logits(config: BertConfig, batch: Batch, seed: int) -> None:
    torch.manual_seed(seed)
    model = BertForTokenClassification(config)
    path = save(model)
    assert_as_hf(reference_outputs(path, "token-classify", batch), model, batch, "logits")


def test_an_error_in_one_token_is_detected() -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=VOCAB))
    batch = [[5, 6, 7], [8, 9]]
    outputs = reference_outputs(save(model), "hidden", batch)
    outputs[1][0, 3] += 1e-3
    with pytest.raises(AssertionError, match="item 1"):
        assert_as_hf(outputs, model, batch, "last_hidden_state")
