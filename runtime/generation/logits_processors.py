"""Logits processors in Python, called between the ``logits_processors`` graph and the ``sample`` graphs.

They are slow: every step waits for them.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from precast.graphs.sampling import RUNNING
from precast.runtime.errors import ProcessorError
from precast.runtime.generation.batch import ActiveBatch
from precast.runtime.generation.request import LogitsProcessor, Request
from precast.runtime.generation.state import DecoderState

_OWN_FRAMES = 2


def apply_processors(batch: ActiveBatch, state: DecoderState, scores: Tensor) -> None:
    """Apply each request's processors to its rows of ``scores`` ``[R, vocab]``, in place.

    If a processor raises, or does not return scores, only its own request fails. Processors are not called
    inside a prefix, nor for a request that has ended since the last poll.
    """
    for start, request in batch.processed:
        if request.failure is None:
            _apply(request, state, scores[start : start + len(request.seq_ids)])


def _apply(request: Request, state: DecoderState, scores: Tensor) -> None:
    seq_ids = list(request.seq_ids)
    running = state.arrays["finished"][seq_ids] == RUNNING
    positions = state.arrays["positions"][seq_ids]
    length = int(positions.max()) + 1
    if not running.any() or length < len(request.params.prefix):
        return
    try:
        scores.copy_(_processed(request.processors, _token_ids(state, seq_ids, length), scores))
    except Exception as error:  # user code may raise anything
        request.failure = _failure(error)


def _token_ids(state: DecoderState, seq_ids: list[int], length: int) -> Tensor:
    """Return tokens of sequences, int64 ``[sequences, length]``; finished ones repeat their last token."""
    index = np.minimum(np.arange(length), state.arrays["positions"][seq_ids][:, None])
    return torch.from_numpy(np.take_along_axis(state.arrays["history"][seq_ids], index, axis=1)).long()


def _processed(processors: Sequence[LogitsProcessor], input_ids: Tensor, scores: Tensor) -> Tensor:
    processed = scores.clone()
    for processor in processors:
        processed = processor(input_ids.clone(), processed)
        if not isinstance(processed, Tensor) or processed.shape != scores.shape:
            shape = tuple(processed.shape) if isinstance(processed, Tensor) else type(processed).__name__
            raise ProcessorError(
                f"a logits processor must return scores of shape {tuple(scores.shape)}, found {shape}"
            )
    return processed.detach().to(torch.float32)


def _failure(error: Exception) -> ProcessorError:
    """Return the error of the request, with the user's part of the traceback as text.

    The frames themselves refer to the request, and so to the future that will hold the error: a reference
    cycle that would keep the scores in memory until the next garbage collection.
    """
    below = traceback.extract_tb(error.__traceback__)[_OWN_FRAMES:]
    error = error.with_traceback(None)
    if isinstance(error, ProcessorError):
        return error
    where = "".join(f"\n{line}" for line in traceback.StackSummary.from_list(below).format())
    failure = ProcessorError(f"a logits processor failed: {type(error).__name__}: {error}{where.rstrip()}")
    failure.__cause__ = error
    return failure
