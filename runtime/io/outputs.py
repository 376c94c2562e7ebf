"""What an engine answers, and how answers become scores, labels and rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from precast.runtime.errors import OptionError

Activation = Literal["softmax", "sigmoid", "identity"]


@dataclass(frozen=True)
class EncoderOutput:
    """The answer to one input. Of the three arrays the one of the artifact's task is set.

    Attributes:
        prompt_token_ids: int32 ``[n]``, what the graph was given.
        embedding: fp32 ``[size]`` (task embed).
        logits: fp32 ``[labels]`` (classify, rerank) or ``[n, labels]`` (token-classify).
        hidden: fp32 ``[n, size]`` (task hidden).
        truncated: whether the input was cut to the artifact's length.
    """

    prompt_token_ids: np.ndarray
    embedding: np.ndarray | None = None
    logits: np.ndarray | None = None
    hidden: np.ndarray | None = None
    truncated: bool = False


def activate(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """Logits to scores over the last axis, in fp32."""
    if activation == "identity":
        return logits
    if activation == "sigmoid":
        # exp of a large number overflows; of a large negative one it does not.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def truncate_and_normalize(
    embeddings: np.ndarray, truncate_dim: int | None, normalize_embeddings: bool
) -> np.ndarray:
    """Matryoshka truncation, then unit length: the order of sentence-transformers' ``encode``.

    Raises:
        OptionError: ``truncate_dim`` is not a size of the embedding.
    """
    size = embeddings.shape[-1]
    if truncate_dim is not None:
        whole = isinstance(truncate_dim, int) and not isinstance(truncate_dim, bool)
        if not whole or not 1 <= truncate_dim <= size:
            raise OptionError(f"truncate_dim must be between 1 and {size}, found {truncate_dim!r}")
        embeddings = embeddings[..., :truncate_dim]
    if normalize_embeddings:
        norm = np.linalg.norm(embeddings, axis=-1, keepdims=True)
        embeddings = embeddings / np.maximum(norm, 1e-12)
    return np.ascontiguousarray(embeddings)


def similarity(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Every row of ``a`` against every row of ``b``: sentence-transformers' ``similarity``.

    Raises:
        OptionError: ``kind`` is none of cosine, dot, euclidean, manhattan.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if kind == "cosine":
        return truncate_and_normalize(a, None, True) @ truncate_and_normalize(b, None, True).T
    if kind == "dot":
        return a @ b.T
    difference = a[:, None, :] - b[None, :, :]
    if kind == "euclidean":
        return -np.linalg.norm(difference, axis=-1)
    if kind == "manhattan":
        return -np.abs(difference).sum(axis=-1)
    raise OptionError(f"similarity {kind!r} is none of cosine, dot, euclidean, manhattan")
