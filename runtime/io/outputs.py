"""Outputs of encoders, and functions that turn them into scores and similarities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from precast.runtime.errors import OptionError

Activation = Literal["softmax", "sigmoid", "identity"]


@dataclass(frozen=True, eq=False)
class EncoderOutput:
    """The output of one input. The artifact's task determines which of the three arrays is set.

    Iterating over an output iterates over that array. Outputs are compared by content and hashed by their
    token ids.

    Attributes:
        prompt_token_ids: int32 ``[n]``, the token ids of the input, special tokens included.
        embedding: fp32 ``[size]`` (task embed).
        logits: fp32 ``[labels]`` (classify, rerank) or ``[n, labels]`` (token-classify).
        hidden: fp32 ``[n, size]`` (task hidden).
        truncated: whether the input was truncated to the artifact's maximum length.
    """

    prompt_token_ids: np.ndarray
    embedding: np.ndarray | None = None
    logits: np.ndarray | None = None
    hidden: np.ndarray | None = None
    truncated: bool = False

    @property
    def values(self) -> np.ndarray:
        """The array that is set."""
        (values,) = (array for array in (self.embedding, self.logits, self.hidden) if array is not None)
        return values

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other)

    def __hash__(self) -> int:
        return hash(self.prompt_token_ids.tobytes())

    def __repr__(self) -> str:
        arrays = {"embedding": self.embedding, "logits": self.logits, "hidden": self.hidden}
        shapes = [f"{name}={describe_array(array)}" for name, array in arrays.items() if array is not None]
        parts = [f"prompt_tokens={len(self.prompt_token_ids)}", *shapes]
        return f"EncoderOutput({', '.join(parts + ['truncated=True'] * self.truncated)})"


def equal_fields(left: Any, right: Any) -> bool:
    """Return whether two objects are of the same dataclass and have equal fields, arrays included."""
    if type(left) is not type(right):
        return False
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in ((getattr(left, field.name), getattr(right, field.name)) for field in fields(left))
    )


def describe_array(array: np.ndarray) -> str:
    """Return dtype and shape of an array, such as ``float32[384]``."""
    return f"{array.dtype}{list(array.shape)}"


def activate(logits: np.ndarray, activation: Activation) -> np.ndarray:
    """Return the scores of logits ``[..., labels]``, in fp32."""
    if activation == "identity":
        return logits
    if activation == "sigmoid":
        # exp of a large number overflows; of a large negative one it does not.
        small = np.exp(-np.abs(logits))
        probabilities: np.ndarray = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
        return probabilities.astype(np.float32)
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax: np.ndarray = raised / raised.sum(axis=-1, keepdims=True)
    return softmax


def truncate_and_normalize(
    embeddings: np.ndarray, truncate_dim: int | None, normalize_embeddings: bool
) -> np.ndarray:
    """Return embeddings truncated to ``truncate_dim``, then scaled to unit length, as sentence-transformers.

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
    """Return the similarity of every row of ``a`` to every row of ``b``, as sentence-transformers.

    Raises:
        OptionError: ``kind`` is none of cosine, dot, euclidean, manhattan.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if kind in ("cosine", "dot"):
        if kind == "cosine":
            a, b = truncate_and_normalize(a, None, True), truncate_and_normalize(b, None, True)
        product: np.ndarray = a @ b.T
        return product
    if kind == "euclidean":
        return -_by_row(a, b, lambda difference: np.linalg.norm(difference, axis=-1))
    if kind == "manhattan":
        return -_by_row(a, b, lambda difference: np.abs(difference).sum(axis=-1))
    raise OptionError(f"similarity {kind!r} is none of cosine, dot, euclidean, manhattan")


def _by_row(a: np.ndarray, b: np.ndarray, distance: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return distances, row by row: all differences would take ``len(a) * len(b) * size`` numbers."""
    distances = np.empty((len(a), len(b)), np.result_type(a, b))
    for row, vector in zip(distances, a, strict=True):
        row[:] = distance(vector - b)
    return distances
