"""sentence-transformers in fp32 and bf16."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from precast.tools.bench.peers.contender import Contender, Subject, UnsupportedTask
from precast.tools.bench.peers.hugging_face import Dtype, torch_dtype
from precast.tools.bench.peers.padded import padded

if TYPE_CHECKING:
    import numpy as np

NEEDS = ("torch", "sentence_transformers")


def contenders(subject: Subject) -> list[Contender]:
    """Return one contender for each dtype.

    Raises:
        UnsupportedTask: the task is not ``embed``, or the checkpoint does not state the artifact's pooling.
    """
    if subject.task != "embed":
        raise UnsupportedTask(f"it embeds texts, the task is {subject.task}")
    from precast.compiler.frontend.checkpoint import open_checkpoint
    from precast.compiler.frontend.sentence_transformers import read_modules

    modules = read_modules(open_checkpoint(subject.model))
    if modules is None:
        raise UnsupportedTask("the checkpoint has no modules.json")
    if modules.embedder.pooling != subject.pooling:
        raise UnsupportedTask(
            f"the checkpoint has {', '.join(modules.embedder.pooling)} pooling, the artifact "
            f"{', '.join(subject.pooling)}"
        )
    return [
        Contender(
            f"sentence-transformers {dtype}",
            "sentence-transformers",
            dtype,
            partial(SentenceEngine, subject, dtype),
            NEEDS,
        )
        for dtype in ("fp32", "bf16")
    ]


class SentenceEngine:
    """An engine around ``SentenceTransformer.encode``, and around its modules for token ids.

    Args:
        subject: the model to run.
        dtype: dtype of weights and computation.
    """

    def __init__(self, subject: Subject, dtype: Dtype) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        from precast.compiler.frontend.checkpoint import open_checkpoint

        logging.disable_progress_bar()
        torch.set_num_threads(subject.threads)
        self._model = SentenceTransformer(
            str(open_checkpoint(subject.model).root),
            device="cpu",
            model_kwargs={"dtype": torch_dtype(dtype)},
        )
        self._model.max_seq_length = subject.max_length
        self._pad_id = subject.pad_id

    def embed_ids(self, sequences: Sequence[list[int]]) -> np.ndarray:
        """Run the modules on token ids."""
        import torch

        ids, mask = padded(sequences, self._pad_id)
        given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            embeddings: np.ndarray = self._model(given)["sentence_embedding"].float().numpy()
        return embeddings

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts as one batch and without a prompt."""
        embeddings: np.ndarray = self._model.encode(
            list(texts), batch_size=len(texts), prompt="", show_progress_bar=False
        )
        return embeddings

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Run the tokenization of ``encode``, including padding."""
        features = self._model.preprocess(list(texts))
        return [
            ids[mask.bool()].tolist()
            for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)
        ]
