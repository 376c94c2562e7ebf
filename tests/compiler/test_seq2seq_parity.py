"""``encode_source`` and ``decode`` of every encoder-decoder family against Hugging Face, at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from precast.compiler.errors import UnsupportedConfigError, UnsupportedModelError
from precast.compiler.families.registry import FAMILIES
from precast.compiler.frontend.checkpoint import open_checkpoint
from precast.compiler.models.build import build_seq2seq, describe_model
from precast.compiler.verify.generation_parity import logits_of
from tests.support.models import assert_as_hf, assert_close, reference_outputs, save
from tests.support.seq2seq import ManualSeq2Seq, check_every_step
from tests.support.strategies import batches

VOCAB = 47
FEW = settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
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


@st.composite
def t5_models(draw: st.DrawFn) -> PreTrainedModel:
    torch.manual_seed(draw(st.integers(0, 99)))
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "d_model": draw(st.sampled_from([16, 24])),
        "d_kv": draw(st.sampled_from([5, 8])),
        "d_ff": 32,
        "num_layers": draw(st.integers(1, 2)),
        "num_decoder_layers": draw(st.integers(1, 3)),
        "num_heads": draw(st.sampled_from([1, 3])),
        "relative_attention_num_buckets": draw(st.sampled_from([8, 32])),
        "relative_attention_max_distance": draw(st.sampled_from([12, 128])),
        "feed_forward_proj": draw(st.sampled_from(["relu", "gated-gelu"])),
        "initializer_factor": 2.0,
    }
    if draw(st.booleans()):
        return UMT5ForConditionalGeneration(UMT5Config(**values))
    return T5ForConditionalGeneration(T5Config(**values, tie_word_embeddings=draw(st.booleans())))


@FEW
@given(model=t5_models(), sources=batches(VOCAB), untied=st.booleans(), seed=st.integers(0, 99))
def test_t5(model: PreTrainedModel, sources: list[list[int]], untied: bool, seed: int) -> None:
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    check_every_step(model, sources, seed, start=0)


@st.composite
def bart_like_models(draw: st.DrawFn, family: str) -> PreTrainedModel:
    """Generate models whose encoder and decoder differ where possible; some head sizes are odd."""
    torch.manual_seed(draw(st.integers(0, 99)))
    half = {"layers": st.integers(1, 2), "attention_heads": st.sampled_from([1, 3])}
    sides = {
        f"{side}_{name}": draw(values) for side in ("encoder", "decoder") for name, values in half.items()
    }
    values: dict[str, Any] = {
        **sides,
        "vocab_size": VOCAB,
        "d_model": draw(st.sampled_from([18, 21, 24])),
        "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 28,
        "max_position_embeddings": 40,
        "activation_function": draw(st.sampled_from(["gelu", "gelu_new", "relu", "swish"])),
        "scale_embedding": draw(st.sampled_from([True, True, True, False])),
        "tie_word_embeddings": draw(st.booleans()),
        "init_std": 0.3,
        "pad_token_id": draw(st.sampled_from([0, 1, 4])) if family == "m2m_100" else 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    if family == "marian" and draw(st.booleans()):
        values |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 31}
    kind = getattr(transformers, BART_LIKE[family])
    model = kind(kind.config_class(**values))
    if family != "m2m_100":
        model.final_logits_bias.normal_()
    return model


@pytest.mark.parametrize("family", BART_LIKE)
@FEW
@given(data=st.data(), sources=batches(VOCAB, frequent=(0, 1, 4)), seed=st.integers(0, 99))
def test_bart_like(family: str, data: st.DataObject, sources: list[list[int]], seed: int) -> None:
    model = data.draw(bart_like_models(family))
    check_every_step(model, sources, seed, start=data.draw(st.sampled_from([1, 2])))


@pytest.mark.parametrize("family", BART_LIKE)
@settings(FEW, max_examples=2)
@given(data=st.data(), sources=batches(VOCAB, frequent=(0, 1, 4)))
def test_the_encoder_of_bart_like(family: str, data: st.DataObject, sources: list[list[int]]) -> None:
    model = data.draw(bart_like_models(family))
    outputs = reference_outputs(save(model), "hidden", sources)
    assert_as_hf(outputs, model.get_encoder(), sources, "last_hidden_state")


def tiny_bart(**values: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    half = {"layers": 1, "attention_heads": 2, "ffn_dim": 20}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in half.items()}
    sizes = {"vocab_size": VOCAB, "d_model": 16, "max_position_embeddings": 40, "init_std": 0.3}
    return BartForConditionalGeneration(BartConfig(**sides, **sizes, **values))


def test_copies_of_tied_tables_count_as_tied(tmp_path: Path) -> None:
    """Old checkpoints have such copies and fairseq's version marker, and may lack the bias of the logits."""
    model = tiny_bart()
    weights = load_file(save(model, tmp_path) / "model.safetensors")
    tables = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    copies = {name: weights["model.shared.weight"].clone() for name in tables}
    del weights["final_logits_bias"]
    marker = {"model.encoder.version": torch.tensor([3.0])}
    save_file(weights | copies | marker, tmp_path / "model.safetensors", metadata={"format": "pt"})
    engine = ManualSeq2Seq(tmp_path, seed=0)
    decoder = engine.built.spec.decoder
    assert decoder.shared_tokens and decoder.head.tied and not decoder.head.bias
    assert engine.built.dropped == ("encoder.version",)
    engine.encode_sources({0: [5, 6, 7]})
    assert_close([engine.step({0: 2})[0]], list(logits_of(model, [5, 6, 7], [2])))


def test_unsupported_bart_tasks_and_configurations_are_rejected(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(save(tiny_bart(), tmp_path)))
    for task in ("classify", "rerank", "token-classify"):
        with pytest.raises(UnsupportedModelError, match=f"family bart has no head for task '{task}'"):
            describe_model(checkpoint, task)
    checkpoint = open_checkpoint(str(save(tiny_bart(is_decoder=True), tmp_path)))
    with pytest.raises(UnsupportedConfigError, match="is_decoder=True is not supported"):
        build_seq2seq(checkpoint, torch.float32)


def test_every_generating_class_is_tested() -> None:
    known = {name for family in FAMILIES if family.generation for name in family.generation.architectures}
    t5 = {f"{name}ForConditionalGeneration" for name in ("T5", "MT5", "UMT5")}
    assert known == {*BART_LIKE.values(), *t5}
    assert all(getattr(transformers, name).can_generate() for name in known)
