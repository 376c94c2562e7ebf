"""The best of very many scores.

The best ``K`` numbers lie in the ``K`` chunks with the best maxima. Finding these is one pass over the scores
that writes almost nothing; selecting among all scores would sort and copy them.

The size of the vocabulary is symbolic. Chunks behind its end, whose maximum is minus infinity, make it
evident to tracing that there are enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 64


@dataclass(frozen=True)
class Best:
    """The best continuations of each group, ``[G, K]``, in descending order of score."""

    score: Tensor
    """Log-probability of the whole beam."""
    beam: Tensor
    token: Tensor
    logprob: Tensor


def best_continuations(scores: Tensor, at: Tensor, sums: Tensor, terms: Tensor, each: int) -> Best:
    """Return the best ``each * B`` continuations of ``G`` groups of ``B`` beams.

    Args:
        scores: fp32 ``[R, vocab]``.
        at: int64 ``[G, B]``, the row of each beam.
        sums: fp32 ``[G, B]``, log-probabilities of the beams so far.
        terms: fp32 ``[2, G, B]``, subtracted from each row: the terms of log-softmax, or zeros.
        each: Continuations for each beam, at most ``vocab``.
    """
    beams, vocab = at.shape[1], scores.shape[-1]
    maxima = _chunk_maxima(scores, each)
    largest, total = terms[0, ..., None], terms[1, ..., None]

    chunks = maxima.shape[1]
    bounds = maxima[at] - largest - total + sums[..., None]
    _, chunk = torch.topk(bounds.flatten(1), each * beams, dim=-1, sorted=False)
    beam = chunk // chunks
    token, exists = _tokens_in(chunk % chunks, vocab)

    def of_beam(value: Tensor) -> Tensor:
        return value.flatten(1).gather(1, beam)[..., None]

    logprob = torch.where(exists, scores[of_beam(at), token], -math.inf) - of_beam(largest) - of_beam(total)
    score, index = torch.topk((logprob + of_beam(sums)).flatten(1), each * beams, dim=-1, sorted=True)
    chunk_rank = index // _CHUNK
    return Best(
        score,
        beam.gather(1, chunk_rank),
        token.flatten(1).gather(1, index),
        logprob.flatten(1).gather(1, index),
    )


def best_tokens(scores: Tensor, at: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best ``count`` scores of some rows in descending order, and their tokens: ``[C, count]``
    each.

    Args:
        scores: fp32 ``[R, vocab]``.
        at: int64 ``[C]``, rows.
        count: Number of tokens, at most ``vocab``.
    """
    maxima = _chunk_maxima(scores, 2)
    _, chunk = torch.topk(maxima[at], torch.sym_min(count, maxima.shape[1]), dim=-1, sorted=False)
    token, exists = _tokens_in(chunk, scores.shape[-1])
    # Tracing cannot prove that these chunks hold ``count`` tokens; forbidden ones behind them do.
    among = F.pad(
        torch.where(exists, scores[at[:, None, None], token], -math.inf).flatten(1),
        (0, count),
        value=-math.inf,
    )
    score, index = torch.topk(among, count, dim=-1, sorted=True)
    return score, F.pad(token.flatten(1), (0, count)).gather(1, index)


def _tokens_in(chunk: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The tokens of each chunk, and which of them exist: ``[..., 64]``.

    A token behind the vocabulary is replaced by the last one and to be treated as forbidden.
    """
    token = (chunk * _CHUNK)[..., None] + torch.arange(_CHUNK, device=chunk.device)
    return token.clamp(max=vocab - 1), token < vocab


def _chunk_maxima(scores: Tensor, least: int) -> Tensor:
    """The largest score of each chunk, ``[R, chunks]``; empty chunks make at least ``least`` of them."""
    vocab = scores.shape[1]
    chunks = (vocab + _CHUNK - 1) // _CHUNK + least - 1
    padded = F.pad(scores, (0, chunks * _CHUNK - vocab), value=-math.inf)
    # Not by view, whose shape tracing could only prove for multiples of the chunk.
    return padded.unfold(1, _CHUNK, _CHUNK).amax(dim=-1)
