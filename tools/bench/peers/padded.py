"""Padded batches, as peers run them: each input is padded to the longest one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from precast.tools.bench.peers.contender import Subject

if TYPE_CHECKING:
    import numpy as np

Run = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]
"""Maps token ids and mask, both int64 ``[n, length]``, to ``[n, size]`` or ``[n, length, size]``."""
Tokenizing = Callable[[Sequence[str]], list[list[int]]]


class PaddedEngine:
    """An engine around a model that takes padded token ids and a mask.

    Args:
        subject: the model to run.
        run: function that runs the model.
        tokenize: function that maps texts to token ids.
    """

    def __init__(self, subject: Subject, run: Run, tokenize: Tokenizing) -> None:
        self._subject = subject
        self._run = run
        self.tokenize = tokenize

    def embed_ids(self, sequences: Sequence[list[int]]) -> np.ndarray:
        """Run the model on token ids; for per-token outputs return the rows of real tokens alone."""
        ids, mask = padded(sequences, self._subject.pad_id)
        output = self._run(ids, mask)
        return output[mask.astype(bool)] if self._subject.per_token else output

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Tokenize texts and run the model."""
        return self.embed_ids(self.tokenize(texts))


def padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and mask of one batch, both int64 ``[n, length]``, padded on the right."""
    import numpy as np

    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for index, sequence in enumerate(sequences):
        ids[index, : len(sequence)] = sequence
        mask[index, : len(sequence)] = 1
    return ids, mask


def padding_waste(lengths: Sequence[int], batch: int) -> float:
    """Return the number of tokens in padded batches per real token, with inputs in the given order."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(members) * len(members) for members in batches) / sum(lengths)


def bare_tokenizer(subject: Subject) -> Tokenizing:
    """Return the artifact's tokenizer without transformers, whose import would slow down a cold start."""
    from tokenizers import Tokenizer

    assert subject.tokenizer is not None  # the benchmark refuses artifacts without one
    tokenizer = Tokenizer.from_file(str(subject.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(subject.max_length, direction=subject.truncation_side)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def own_tokenizer(subject: Subject) -> Tokenizing:
    """Return the tokenizer of the checkpoint, loaded by transformers."""
    from transformers import AutoTokenizer

    from precast.compiler.frontend.checkpoint import open_checkpoint
    from precast.compiler.frontend.sentence_transformers import read_settings

    checkpoint = open_checkpoint(subject.model)
    lower_case = read_settings(checkpoint).do_lower_case
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, truncation_side=subject.truncation_side)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        given = [text.lower() for text in texts] if lower_case else list(texts)
        ids: list[list[int]] = tokenizer(given, truncation=True, max_length=subject.max_length)["input_ids"]
        return ids

    return tokenize
