"""The random checkpoints of the tools: complete, compilable, the same each time."""

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
def test_a_small_model_compiles_and_hides_nothing(name: str, tmp_path: Path) -> None:
    folder = models.write_small(name, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert family_of(config["model_type"]).name == ("t5" if name == "umt5" else name)
    assert not (folder / "tokenizer.json").exists()
    for weight, tensor in load_file(folder / "model.safetensors").items():
        assert tensor.dim() > 1 or tensor.unique().numel() > 1, f"{weight} is all the same"
    manifest = precast.compile(
        folder, tmp_path / "out.precast", task="hidden", backend="reference", max_length=200
    )
    assert manifest.parity is not None and manifest.parity.tokens > 0


def test_the_same_model_each_time(tmp_path: Path) -> None:
    first, second = (models.write_small("bert", tmp_path / name) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ValueError, match="no small model of family 'gpt'; known are bert, roberta"):
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


def test_texts_are_whole_words_mostly() -> None:
    tokenizer = models.word_piece(30_522, 512)
    assert len(tokenizer) == 30_522
    texts = models.random_texts(50, 20, 30_522)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert min(lengths) >= 22 and max(lengths) <= 20 * 2 + 3
    assert not any(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in texts)
    assert models.random_texts(50, 20, 30_522) == texts
