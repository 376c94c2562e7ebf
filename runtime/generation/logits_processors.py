"""Logits processors that a user brings: Python, called between the token_biases and the group.

The slow way: every step waits for them.
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
    """Let each request's processors change its rows of ``scores`` ``[R, vocab]``, in place.

    One that raises, or gives something else than scores, fails its own request.
    Within a prefix nothing is chosen, and between two looks a request may have ended: nobody is asked then.
    """
    for start, one in batch.processed:
        if one.failure is None:
            _apply(one, state, scores[start : start + len(one.seq_ids)])


def _apply(one: Request, state: DecoderState, scores: Tensor) -> None:
    rows = list(one.seq_ids)
    running = state.arrays["finished"][rows] == RUNNING
    positions = state.arrays["positions"][rows]
    length = int(positions.max()) + 1
    if not running.any() or length < len(one.params.prefix):
        return
    try:
        scores.copy_(_processed(one.processors, _written(state, rows, length), scores))
    except Exception as error:  # whatever a user's code raises
        one.failure = _failure(error)


def _written(state: DecoderState, rows: list[int], length: int) -> Tensor:
    """The tokens of ``rows``, int64 ``[rows, length]``; one that has ended before repeats its last."""
    place = np.minimum(np.arange(length), state.arrays["positions"][rows][:, None])
    return torch.from_numpy(np.take_along_axis(state.arrays["history"][rows], place, axis=1)).long()


def _processed(processors: Sequence[LogitsProcessor], input_ids: Tensor, scores: Tensor) -> Tensor:
    found = scores.clone()
    for processor in processors:
        found = processor(input_ids.clone(), found)
        if not isinstance(found, Tensor) or found.shape != scores.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ProcessorError(
                f"a logits processor must give scores of shape {tuple(scores.shape)}, found {shape}"
            )
    return found.detach().to(torch.float32)


def _failure(error: Exception) -> ProcessorError:
    """What the request ends by, with the user's part of the traceback as text.

    The frames themselves hold the request, and so the future that will hold the error: a circle with the
    scores in it, which would stay in memory until the garbage collector comes.
    """
    below = traceback.extract_tb(error.__traceback__)[_OWN_FRAMES:]
    error = error.with_traceback(None)
    if isinstance(error, ProcessorError):
        return error
    where = "".join(f"\n{line}" for line in traceback.StackSummary.from_list(below).format())
    failure = ProcessorError(f"a logits processor failed: {type(error).__name__}: {error}{where.rstrip()}")
    failure.__cause__ = error
    return failure
