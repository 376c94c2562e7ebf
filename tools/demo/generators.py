"""The contenders of the generation demo: precast and Hugging Face, each in a process of its own.

Their output is one int32 array ``[texts, tokens]`` with the start token and the generated tokens up to the
end token, padded with -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import precast

PADDING = -1
THREADS = 1
"""Threads of each contender: models this small do not profit from a second one."""
HF_SINGLE = "HF fp32, one by one"
"""Name of the reference, which runs without padding."""


@dataclass(frozen=True)
class GenerateCall:
    """Texts and the options of ``generate``."""

    texts: tuple[str, ...]
    options: Mapping[str, Any]


Generator = Callable[[GenerateCall], np.ndarray]


def makers(checkpoint: Path, artifacts: Mapping[str, Path]) -> dict[str, Callable[[], Generator]]:
    """Return functions that create the contenders, each with single texts and with one batch.

    Args:
        checkpoint: directory of the checkpoint.
        artifacts: artifacts compiled from it, by dtype.
    """
    contenders: dict[str, Callable[[], Generator]] = {
        HF_SINGLE: partial(make_hugging_face, checkpoint, batched=False),
        "HF fp32, as a batch": partial(make_hugging_face, checkpoint, batched=True),
    }
    for dtype, path in artifacts.items():
        contenders[f"precast {dtype}, one by one"] = partial(make_precast, path, batched=False)
        contenders[f"precast {dtype}, as a list"] = partial(make_precast, path, batched=True)
    return contenders


def make_precast(artifact: Path, *, batched: bool) -> Generator:
    """Load an artifact and return a function that generates with it.

    Args:
        artifact: directory of the artifact.
        batched: pass all texts in one call; otherwise each one after the output of the previous one.
    """
    engine = precast.Seq2Seq.load(artifact, num_threads=THREADS)

    def generate(call: GenerateCall) -> np.ndarray:
        if batched:
            outputs = engine.generate(list(call.texts), **call.options)
        else:
            outputs = [engine.generate(text, **call.options) for text in call.texts]
        return pad_to_matrix([output.token_ids for output in outputs])

    return generate


def make_hugging_face(checkpoint: Path, *, batched: bool) -> Generator:
    """Load the Hugging Face model in eager mode and return a function that generates with it.

    Args:
        checkpoint: directory of the checkpoint.
        batched: pad all texts to one batch; otherwise generate for one text at a time.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    torch.set_num_threads(THREADS)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def generate_batch(texts: list[str], options: Mapping[str, Any]) -> list[np.ndarray]:
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        tokens = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **options
        )
        return [trim_after_eos(sequence, tokenizer.eos_token_id) for sequence in tokens.numpy()]

    def generate(call: GenerateCall) -> np.ndarray:
        batches = [list(call.texts)] if batched else [[text] for text in call.texts]
        return pad_to_matrix(
            [sequence for batch in batches for sequence in generate_batch(batch, call.options)]
        )

    return generate


def trim_after_eos(sequence: np.ndarray, eos: int) -> np.ndarray:
    """Return a sequence without the padding after its first end token."""
    ends = np.flatnonzero(sequence == eos)
    return sequence[: ends[0] + 1] if len(ends) else sequence


def pad_to_matrix(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return all sequences as one array, padded with ``PADDING``."""
    matrix = np.full((len(sequences), max(map(len, sequences))), PADDING, np.int32)
    for at, sequence in enumerate(sequences):
        matrix[at, : len(sequence)] = sequence
    return matrix


def count_generated(tokens: np.ndarray) -> int:
    """Return the number of tokens in an array of ``pad_to_matrix``, without start tokens."""
    return int((tokens[:, 1:] != PADDING).sum())


def count_identical(first: np.ndarray, second: np.ndarray) -> int:
    """Return the number of sequences that are identical in two arrays of ``pad_to_matrix``."""
    width = max(first.shape[1], second.shape[1])
    wide = [
        np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=PADDING)
        for tokens in (first, second)
    ]
    return int((wide[0] == wide[1]).all(axis=1).sum())
