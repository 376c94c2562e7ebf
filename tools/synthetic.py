"""A task that tiny encoder-decoders learn in seconds: rewrite dates in ISO 8601.

The demo and the soak test use it. The best output of a trained model scores far better than the next, so an
equivalent implementation generates the same tokens, and a reader can see whether an output is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

FORMS: tuple[Callable[[date], str], ...] = (
    lambda day: f"{day:%B} {day.day}, {day.year}",
    lambda day: f"{_ordinal(day.day)} of {day:%B} {day.year}",
    lambda day: f"{day:%d/%m/%Y}",
    lambda day: f"{day:%A}, {day.day} {day:%b} {day.year}",
)
"""March 4, 2021 · 4th of March 2021 · 04/03/2021, day first · Thursday, 4 Mar 2021"""

LONGEST_TARGET = 16
"""Tokens of a target: ten characters, start, end and some room."""

_FIRST, _DAYS = date(1950, 1, 1), 36500
_HELD_OUT = 20
"""One date in this many is held out from training."""
_SPECIAL = ("<pad>", "</s>", "<unk>")
_VOCABULARY = 160
_LONGEST = 32


@dataclass(frozen=True)
class Training:
    """Training settings.

    Attributes:
        steps: optimizer steps.
        batch: dates per step.
        rate: peak learning rate of a one-cycle schedule.
        seed: seed of weights and dates.
    """

    steps: int
    batch: int = 128
    rate: float = 4e-3
    seed: int = 0


TRAINING: dict[str, Training] = {"t5": Training(500), "marian": Training(700, batch=64)}
"""Settings by family with which almost all held-out dates are converted correctly."""


def held_out_dates(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return dates that no model was trained on, each as text and in ISO 8601, cycling through ``FORMS``."""
    return _dates(random.Random(seed), count, held_out=True)


def write_dates_model(family: str, folder: Path, training: Training | None = None) -> Path:
    """Train a model of a few hundred thousand parameters and write it with its tokenizer; return ``folder``.

    Args:
        family: ``t5`` or ``marian``.
        folder: directory to write.
        training: training settings, by default those of ``TRAINING``. Equal settings give equal weights on
            the same processor.
    """
    logging.disable_progress_bar()
    settings = training or TRAINING[family]
    tokenizer = _tokenizer()
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(settings.seed)
        model = _train(_MAKERS[family](len(tokenizer)), tokenizer, settings)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: results depend on the number of threads, and small products do not profit from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ordinal(day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _dates(rng: random.Random, count: int, *, held_out: bool) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        number = rng.randrange(_DAYS)
        if (number % _HELD_OUT == 0) == held_out:
            day = _FIRST + timedelta(days=number)
            pairs.append((FORMS[len(pairs) % len(FORMS)](day), day.isoformat()))
    return pairs


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer trained on the names of months and days, with separate digits."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), digits]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    texts = (text for pair in _dates(random.Random(1), 4000, held_out=False) for text in pair)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=[*_SPECIAL], show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", _SPECIAL.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=_LONGEST,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _t5(vocabulary: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def _marian(vocabulary: int) -> PreTrainedModel:
    halves: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        halves |= {f"{half}_layers": 2, f"{half}_attention_heads": 2, f"{half}_ffn_dim": 128}
    return MarianMTModel(
        MarianConfig(
            vocab_size=vocabulary, d_model=64, max_position_embeddings=_LONGEST, dropout=0.0, init_std=0.1,
            pad_token_id=0, eos_token_id=1, forced_eos_token_id=1, decoder_start_token_id=0, **halves,
        )
    )  # fmt: skip


_MAKERS: dict[str, Callable[[int], PreTrainedModel]] = {"t5": _t5, "marian": _marian}


def _train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, training: Training) -> PreTrainedModel:
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.rate, total_steps=training.steps, pct_start=0.15
    )
    model.train()
    for inputs in _batches(tokenizer, training):
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def _batches(tokenizer: PreTrainedTokenizerFast, training: Training) -> Iterator[dict[str, Tensor]]:
    rng = random.Random(training.seed)
    for _ in range(training.steps):
        sources, targets = zip(*_dates(rng, training.batch, held_out=False), strict=True)
        given = tokenizer(list(sources), padding=True, return_tensors="pt")
        # ISO dates have one length, so targets need no padding.
        labels = tokenizer(list(targets), return_tensors="pt")["input_ids"]
        yield {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], "labels": labels}
