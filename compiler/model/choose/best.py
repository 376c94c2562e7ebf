"""The best of very many numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK = 64


def best_tokens(scores: Tensor, each: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best ``each * B`` scores of ``[G, B, vocab]``, falling: score, beam and token, ``[G, each * B]``.

    The best ``K`` numbers lie in the ``K`` chunks with the best maxima. Maxima are one pass that compiles to
    vector code; selecting among all numbers takes several times as long.

    Args:
        scores: fp32.
        each: at most ``vocab``.
    """
    groups, beams, vocab = scores.shape
    chunks = -(-vocab // _CHUNK)
    padded = torch.nn.functional.pad(scores, (0, chunks * _CHUNK - vocab), value=-math.inf)
    padded = padded.view(groups, beams * chunks, _CHUNK)
    _, chunk = torch.topk(padded.amax(dim=-1), min(each, chunks) * beams, dim=-1, sorted=False)
    among = padded.gather(1, chunk[..., None].expand(-1, -1, _CHUNK))
    score, place = torch.topk(among.flatten(1), each * beams, dim=-1, sorted=True)
    chunk = chunk.gather(1, place // _CHUNK)
    # A place behind the vocabulary is as bad as a forbidden token, and may stand for one.
    token = (chunk % chunks * _CHUNK + place % _CHUNK).clamp(max=vocab - 1)
    return score, chunk // chunks, token
