"""Tiny encoder-decoders with tokenizers: artifacts of the reference backend, and the Hugging Face models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

import precast
from tests.support.generation_tokenizers import WRITERS
from tests.support.models import save

SOURCE, TARGET, NUM_SEQS = 32, 28, 8
SPARE = 7
"""Unused tokens at the end of the T5's vocabulary, as in published checkpoints."""


@dataclass(frozen=True)
class Generating:
    """An artifact with its Hugging Face model and tokenizer."""

    artifact: Path
    model: Any
    tokenizer: Any

    def ids(self, text: str, src_lang: str | None = None) -> list[int]:
        """Return the source token ids of Hugging Face's tokenizer."""
        if src_lang is not None:
            self.tokenizer.src_lang = src_lang
        found: list[int] = self.tokenizer(text)["input_ids"]
        return found

    def generate(self, source: list[int], **options: Any) -> list[list[int]]:
        """Return the sequences that Hugging Face generates, without padding."""
        if "decoder_input_ids" in options:
            options["decoder_input_ids"] = torch.tensor([options["decoder_input_ids"]])
        found = self.model.generate(torch.tensor([source]), **options).tolist()
        begin = len(options["decoder_input_ids"][0]) if "decoder_input_ids" in options else 1
        return [_cut(one, self.model.generation_config.eos_token_id, begin) for one in found]

    def text(self, ids: list[int]) -> str:
        found: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return found


def t5(folder: Path, **defaults: Any) -> Generating:
    """Make a T5 with byte fallback; ``defaults`` go into its generation configuration."""
    return _made(folder, "byte-fallback", _t5, defaults)


def mbart(folder: Path, **defaults: Any) -> Generating:
    """Make an mBART, whose languages are en_XX, de_DE and others."""
    return _made(folder, "mbart", _mbart, defaults)


def _t5(vocabulary: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary + SPARE, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def _mbart(vocabulary: int) -> PreTrainedModel:
    sizes: dict[str, int] = {}
    for half in ("encoder", "decoder"):
        sizes |= {f"{half}_layers": 1, f"{half}_attention_heads": 2, f"{half}_ffn_dim": 32}
    return MBartForConditionalGeneration(
        MBartConfig(vocab_size=vocabulary, d_model=32, max_position_embeddings=64, **sizes, init_std=0.3)
    )


def _made(folder: Path, tokenizer: str, make: Any, defaults: dict[str, Any]) -> Generating:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    WRITERS[tokenizer](checkpoint)
    theirs = AutoTokenizer.from_pretrained(checkpoint)
    torch.manual_seed(0)
    model = make(len(theirs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.35)
    for name, value in defaults.items():
        setattr(model.generation_config, name, value)
    save(model, checkpoint)
    precast.compile(
        checkpoint, folder / "artifact", backend="reference", verify=False, max_length=SOURCE,
        max_target_length=TARGET, max_tokens=96, max_batch=4, max_num_seqs=NUM_SEQS,
    )  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    return Generating(folder / "artifact", model, theirs)


def _cut(ids: list[int], eos: int, begin: int) -> list[int]:
    ends = [place for place, token in enumerate(ids) if token == eos and place >= begin]
    return ids[: ends[0] + 1] if ends else ids
