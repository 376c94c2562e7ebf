"""Compiled sentence-transformers directories compared with sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertForSequenceClassification, BertModel

import precast
from precast.compiler.errors import UnsupportedConfigError
from precast.compiler.frontend.sentence_transformers import pooling_modes
from tests.support.artifacts import VOCABULARY, tiny_tokenizer
from tests.support.models import save

TEXTS = [
    "the cat sits on the house",
    "a",
    "",
    "dog",
    "the big red dog runs and sleeps under a small green tree " * 2,
]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
PROMPTS = {"query": "query : ", "passage": "the passage : "}


def bert(**options: int) -> BertConfig:
    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, **sizes, **options)


def sentence_transformer(folder: Path, pooling: Pooling, *rest: torch.nn.Module) -> SentenceTransformer:
    """Return a model of Transformer, ``pooling`` and ``rest``, after saving it to ``folder / "st"``."""
    save(BertModel(bert()), folder / "bert")
    tiny_tokenizer(64).save_pretrained(folder / "bert")
    model = SentenceTransformer(modules=[Transformer(str(folder / "bert")), pooling, *rest], prompts=PROMPTS)
    model.save(str(folder / "st"))
    return SentenceTransformer(str(folder / "st"), device="cpu")


@pytest.mark.parametrize("mode", [*MODES, ("cls", "max", "mean")], ids=str)
def test_every_pooling(tmp_path: Path, mode: str | tuple[str, ...]) -> None:
    theirs = sentence_transformer(tmp_path, Pooling(24, mode))
    precast.compile(tmp_path / "st", tmp_path / "a", backend="reference")
    with precast.Encoder.load(tmp_path / "a") as ours:
        assert ours.manifest.model.task == "embed"
        np.testing.assert_allclose(ours.embed(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_dense_normalize_prompts_truncation_and_similarity(tmp_path: Path) -> None:
    dense = [Dense(24, 16, activation_function=torch.nn.GELU()), Dense(16, 12, bias=False)]
    theirs = sentence_transformer(tmp_path, Pooling(24, "mean"), *dense, Normalize())
    precast.compile(tmp_path / "st", tmp_path / "a", backend="reference")
    with precast.Encoder.load(tmp_path / "a") as ours:
        for options in (
            {},
            {"prompt_name": "query"},
            {"prompt": "it is "},
            {"truncate_dim": 5},
            {"truncate_dim": 5, "normalize_embeddings": True, "prompt_name": "passage"},
        ):
            embeddings = ours.embed(TEXTS, **options)
            np.testing.assert_allclose(embeddings, theirs.encode(TEXTS, **options), atol=1e-5)
        embeddings = ours.embed(TEXTS)
        np.testing.assert_allclose(
            ours.similarity(embeddings, embeddings), theirs.similarity(embeddings, embeddings), atol=1e-5
        )


@pytest.mark.parametrize("mode", MODES)
def test_pooling_without_the_prompt(tmp_path: Path, mode: str) -> None:
    theirs = sentence_transformer(tmp_path, Pooling(24, mode, include_prompt=False))
    precast.compile(tmp_path / "st", tmp_path / "a", backend="reference")
    with precast.Encoder.load(tmp_path / "a") as ours:
        for prompt_name in ("query", "passage"):
            embeddings = ours.embed(TEXTS, prompt_name=prompt_name)
            np.testing.assert_allclose(embeddings, theirs.encode(TEXTS, prompt_name=prompt_name), atol=1e-5)
        np.testing.assert_allclose(ours.embed(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_max_seq_length_and_lower_case(tmp_path: Path) -> None:
    sentence_transformer(tmp_path, Pooling(24, "mean"))
    (tmp_path / "st" / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    theirs = SentenceTransformer(str(tmp_path / "st"), device="cpu")
    precast.compile(tmp_path / "st", tmp_path / "a", backend="reference")
    with precast.Encoder.load(tmp_path / "a") as ours:
        assert ours.manifest.limits.max_length == 9
        texts = [text.upper() for text in TEXTS]
        np.testing.assert_allclose(ours.embed(texts), theirs.encode(texts), atol=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_cross_encoders_predict_and_rank(tmp_path: Path, labels: int) -> None:
    model = BertForSequenceClassification(bert(num_labels=labels))
    save(model, tmp_path / "bert")
    tiny_tokenizer(64).save_pretrained(tmp_path / "bert")
    CrossEncoder(str(tmp_path / "bert"), num_labels=labels, device="cpu").save_pretrained(
        str(tmp_path / "ce")
    )
    theirs = CrossEncoder(str(tmp_path / "ce"), device="cpu")
    pairs = [("the cat", text) for text in TEXTS]
    precast.compile(tmp_path / "ce", tmp_path / "a", backend="reference")
    with precast.Encoder.load(tmp_path / "a") as ours:
        assert ours.manifest.model.task == "rerank"
        np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-5)
        np.testing.assert_allclose(ours.predict(pairs[0]), theirs.predict(pairs[0]), atol=1e-5)
        if labels > 1:
            expected = theirs.predict(pairs, apply_softmax=True)
            np.testing.assert_allclose(ours.predict(pairs, apply_softmax=True), expected, atol=1e-5)
            return
        ranked = ours.rank("the cat", TEXTS, top_k=3, return_documents=True)
        expected = theirs.rank("the cat", TEXTS, top_k=3, return_documents=True)
        assert [entry["corpus_id"] for entry in ranked] == [entry["corpus_id"] for entry in expected]
        assert [entry["text"] for entry in ranked] == [entry["text"] for entry in expected]


def test_unknown_modules_and_modes_are_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfigError, match="median"):
        pooling_modes({"pooling_mode": "median"})
    with pytest.raises(UnsupportedConfigError, match="none"):
        pooling_modes({"pooling_mode_cls_token": False})
    sentence_transformer(tmp_path, Pooling(24, "mean"))
    modules = (tmp_path / "st" / "modules.json").read_text("utf-8")
    (tmp_path / "st" / "modules.json").write_text(modules.replace("Pooling", "WordWeights"), "utf-8")
    with pytest.raises(UnsupportedConfigError, match="WordWeights"):
        precast.compile(tmp_path / "st", tmp_path / "a", backend="reference")
