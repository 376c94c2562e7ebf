"""Who generates in the demo: precast and Hugging Face, each in a process of its own.

Their answer is one array, int32 ``[texts, tokens]``: the start token and what was generated up to its end,
filled up with -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import precast

FILL = -1
THREADS = 1
"""Of every contender: models this small gain nothing from a second, and wait for it where others run."""
HF_ALONE = "HF fp32, one by one"
"""The oracle: nothing is padded."""


@dataclass(frozen=True)
class Work:
    """Texts, and options of ``generate``."""

    texts: tuple[str, ...]
    options: Mapping[str, Any]


Contender = Callable[[Work], np.ndarray]


def makers(checkpoint: Path, artifacts: Mapping[str, Path]) -> dict[str, Callable[[], Contender]]:
    """Hugging Face and precast, with all texts at once and one after the other.

    Args:
        checkpoint: a folder.
        artifacts: of it, by dtype.
    """
    found: dict[str, Callable[[], Contender]] = {
        HF_ALONE: partial(make_hugging_face, checkpoint, batched=False),
        "HF fp32, as a batch": partial(make_hugging_face, checkpoint, batched=True),
    }
    for dtype, path in artifacts.items():
        found[f"precast {dtype}, one by one"] = partial(make_precast, path, batched=False)
        found[f"precast {dtype}, as a list"] = partial(make_precast, path, batched=True)
    return found


def make_precast(artifact: Path, *, batched: bool) -> Contender:
    """An engine; ``batched``: texts decode together, otherwise each is sent when the last was answered."""
    engine = precast.Seq2Seq.load(artifact, num_threads=THREADS)

    def generate(work: Work) -> np.ndarray:
        if batched:
            answers = engine.generate(list(work.texts), **work.options)
        else:
            answers = [engine.generate(text, **work.options) for text in work.texts]
        return filled_up([answer.token_ids for answer in answers])

    return generate


def make_hugging_face(checkpoint: Path, *, batched: bool) -> Contender:
    """``transformers``' model, eager; ``batched``: texts are padded to one batch."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def generate_together(texts: list[str], options: Mapping[str, Any]) -> list[np.ndarray]:
        given = tokenizer(texts, padding=True, return_tensors="pt")
        found = model.generate(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], **options
        )
        return [up_to_end(row, tokenizer.eos_token_id) for row in found.numpy()]

    def generate(work: Work) -> np.ndarray:
        groups = [list(work.texts)] if batched else [[text] for text in work.texts]
        return filled_up([row for group in groups for row in generate_together(group, work.options)])

    return generate


def up_to_end(row: np.ndarray, eos: int) -> np.ndarray:
    """``row`` without what Hugging Face fills it up with behind its end token."""
    ends = np.flatnonzero(row == eos)
    return row[: ends[0] + 1] if len(ends) else row


def filled_up(rows: Sequence[np.ndarray]) -> np.ndarray:
    """One array of all rows."""
    table = np.full((len(rows), max(map(len, rows))), FILL, np.int32)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return table


def generated(tokens: np.ndarray) -> int:
    """Tokens in such an array, the start tokens not counted."""
    return int((tokens[:, 1:] != FILL).sum())


def same_answers(one: np.ndarray, other: np.ndarray) -> int:
    """How many rows of two such arrays are the same, token by token."""
    width = max(one.shape[1], other.shape[1])
    wide = [np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=FILL) for each in (one, other)]
    return int((wide[0] == wide[1]).all(axis=1).sum())
