"""The random checkpoints of the tools: complete, compilable and reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

import precast
from precast.compiler.families.registry import FAMILIES, family_of
from precast.tools import models
from precast.tools.gpucheck.stages.lower import TINY_BERT


def test_every_family_of_the_registry_has_a_small_model() -> None:
    assert set(models.FAMILIES) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", models.SMALL)
def test_a_small_model_compiles_and_has_no_constant_vector(name: str, tmp_path: Path) -> None:
    folder = models.write_small(name, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert family_of(config["model_type"]).name == ("t5" if name == "umt5" else name)
    assert not (folder / "tokenizer.json").exists()
    for weight, tensor in load_file(folder / "model.safetensors").items():
        assert tensor.dim() > 1 or tensor.unique().numel() > 1, f"{weight} is constant"
    manifest = precast.compile(
        folder, tmp_path / "out.precast", task="hidden", backend="reference", max_length=200
    )
    assert manifest.parity is not None and manifest.parity.tokens > 0


def test_the_same_model_each_time(tmp_path: Path) -> None:
    first, second = (models.write_small("bert", tmp_path / name) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_an_unknown_family_is_rejected() -> None:
    with pytest.raises(ValueError, match="family must be one of bert, roberta, .*, found 'gpt'"):
        models.write_small("gpt", Path("nowhere"))


def test_a_bert_base_with_a_tokenizer_takes_texts(tmp_path: Path) -> None:
    folder = models.write_bert_base(tmp_path / "model", labels=3, **TINY_BERT)
    precast.compile(folder, tmp_path / "out.precast", task="classify", backend="reference")
    texts = models.random_texts(4, 6, TINY_BERT["vocab_size"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with precast.load(tmp_path / "out.precast") as engine:
        for text, output in zip(texts, engine.encode(texts), strict=True):
            assert output.prompt_token_ids.tolist() == tokenizer(text)["input_ids"]
            assert output.logits.shape == (3,)


def test_random_texts_consist_of_known_words() -> None:
    tokenizer = models.word_piece(30_522, 512)
    assert len(tokenizer) == 30_522
    texts = models.random_texts(50, 20, 30_522)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert min(lengths) >= 22 and max(lengths) <= 20 * 2 + 3
    assert not any(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in texts)
    assert models.random_texts(50, 20, 30_522) == texts
