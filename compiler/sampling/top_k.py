"""The best of very many scores.

The best ``K`` numbers lie in the ``K`` chunks with the best maxima. Those take one pass over the scores that
writes next to nothing; selecting among all of them would sort and copy.
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
    """The best continuations of each group, ``[G, K]``, by falling score."""

    score: Tensor
    """With the sum that the beam came with."""
    beam: Tensor
    token: Tensor
    logprob: Tensor


def best_continuations(scores: Tensor, at: Tensor, sums: Tensor, normalizer: Tensor, each: int) -> Best:
    """The best ``each * B`` continuations of ``G`` groups of ``B`` beams.

    Args:
        scores: fp32 ``[R, vocab]``.
        at: int64 ``[G, B]``, the row of each beam.
        sums: fp32 ``[G, B]``, what each beam came with.
        normalizer: fp32 ``[2, G, B]``, what is taken from each row one after the other: what log-softmax
            would take, or zeros.
        each: at most ``vocab``.
    """
    beams, vocab = at.shape[1], scores.shape[-1]
    maxima = _chunk_maxima(scores)
    largest, total = normalizer[0, ..., None], normalizer[1, ..., None]

    chunks = maxima.shape[1]
    hopes = maxima[at] - largest - total + sums[..., None]
    _, chunk = torch.topk(hopes.flatten(1), min(each, chunks) * beams, dim=-1, sorted=False)
    beam = chunk // chunks
    token, exists = _tokens_in(chunk % chunks, vocab)

    def of_beam(value: Tensor) -> Tensor:
        return value.flatten(1).gather(1, beam)[..., None]

    logprob = torch.where(exists, scores[of_beam(at), token], -math.inf) - of_beam(largest) - of_beam(total)
    score, place = torch.topk((logprob + of_beam(sums)).flatten(1), each * beams, dim=-1, sorted=True)
    picked = place // _CHUNK
    return Best(
        score, beam.gather(1, picked), token.flatten(1).gather(1, place), logprob.flatten(1).gather(1, place)
    )


def best_tokens(scores: Tensor, at: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` scores of some rows, falling, and their tokens: ``[C, count]`` each.

    Args:
        scores: fp32 ``[R, vocab]``.
        at: int64 ``[C]``, rows.
        count: at most ``vocab``.
    """
    maxima = _chunk_maxima(scores)
    _, chunk = torch.topk(maxima[at], torch.sym_min(count, maxima.shape[1]), dim=-1, sorted=False)
    token, exists = _tokens_in(chunk, scores.shape[-1])
    # Tracing cannot see that so many chunks hold enough: forbidden ones behind make it plain.
    among = F.pad(
        torch.where(exists, scores[at[:, None, None], token], -math.inf).flatten(1),
        (0, count),
        value=-math.inf,
    )
    score, place = torch.topk(among, count, dim=-1, sorted=True)
    return score, F.pad(token.flatten(1), (0, count)).gather(1, place)


def _tokens_in(chunk: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """The tokens of each chunk, and which of them exist: ``[..., 64]``.

    One behind the vocabulary is as bad as a forbidden one, and stands for the last.
    """
    token = (chunk * _CHUNK)[..., None] + torch.arange(_CHUNK, device=chunk.device)
    return token.clamp(max=vocab - 1), token < vocab


def _chunk_maxima(scores: Tensor) -> Tensor:
    """``[R, chunks]``."""
    whole = scores.shape[1] // _CHUNK * _CHUNK
    parts = [scores[:, :whole].unflatten(1, (-1, _CHUNK)).amax(dim=-1)] if whole else []
    if whole < scores.shape[1]:
        parts.append(scores[:, whole:].amax(dim=-1, keepdim=True))
    return torch.cat(parts, dim=1)
