"""The ``sample.multinomial`` graph: a token drawn from what Hugging Face's warpers leave."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from precast.compiler.sampling.random import uniform
from precast.compiler.sampling.sequence_state import Progress
from precast.compiler.sampling.top_k import best_tokens


class Sample(nn.Module):
    """Takes the named buffers of ``graphs.sample.multinomial_signature``; gives the tokens, int32 ``[C]``.

    All steps work on the best candidates, sorted; in Hugging Face's order they are temperature, top-k, top-p,
    min-p and typical-p. Of tokens that tie with the last of the top k, as many count as are candidates.
    """

    def forward(
        self,
        seq_ids: Tensor,
        logits_indices: Tensor,
        scores: Tensor,
        tokens: Tensor,
        positions: Tensor,
        history: Tensor,
        finished: Tensor,
        logprobs: Tensor,
        prefix_lengths: Tensor,
        max_lengths: Tensor,
        eos_token_ids: Tensor,
        temperatures: Tensor,
        top_ks: Tensor,
        top_ps: Tensor,
        min_ps: Tensor,
        typical_ps: Tensor,
        seeds: Tensor,
        candidate_span: Tensor,
    ) -> Tensor:
        progress = Progress(
            tokens, positions, history, finished, logprobs, prefix_lengths, max_lengths, eos_token_ids
        )
        rows = seq_ids.long()
        best, ids = best_tokens(scores, logits_indices.long(), candidate_span.shape[0])
        best = _top_k(best / temperatures[rows][:, None], top_ks[rows].long())
        best = _top_p(best, top_ps[rows])
        best = _min_p(best, min_ps[rows])
        probabilities = _typical_p(best, typical_ps[rows]).softmax(dim=-1)
        below = probabilities.cumsum(dim=-1)
        drawn = uniform(seeds[rows], positions[rows].long())[:, None] * below[:, -1:]
        place = (below <= drawn).sum(dim=-1, keepdim=True).clamp(max=best.shape[1] - 1)
        token = ids.gather(1, place)[:, 0]
        return progress.advance(rows, token, probabilities.gather(1, place)[:, 0].log())


def _top_k(best: Tensor, k: Tensor) -> Tensor:
    last = torch.where(k > 0, k, best.shape[1]).clamp(max=best.shape[1]) - 1
    return best.masked_fill(best < best.gather(1, last[:, None]), -math.inf)


def _top_p(best: Tensor, p: Tensor) -> Tensor:
    """Remove the tail whose probabilities, from the least on, sum up to ``1 - p`` at most."""
    tail = best.softmax(dim=-1).flip(-1).cumsum(dim=-1).flip(-1)
    removed = (tail <= 1 - p[:, None]) & (p < 1)[:, None]
    first = torch.arange(best.shape[1], device=best.device) == 0
    return best.masked_fill(removed & ~first[None, :], -math.inf)


def _min_p(best: Tensor, p: Tensor) -> Tensor:
    probabilities = best.softmax(dim=-1)
    return best.masked_fill(probabilities < p[:, None] * probabilities[:, :1], -math.inf)


def _typical_p(best: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens nearest to the expected surprise, until they have ``mass`` (Meister et al., 2022)."""
    surprise = -best.log_softmax(dim=-1)
    probabilities = best.softmax(dim=-1)
    entropy = torch.where(probabilities > 0, surprise * probabilities, 0.0).sum(dim=-1, keepdim=True)
    shift = (surprise - entropy).abs()
    ordered, order = shift.sort(dim=-1)
    reached = probabilities.gather(1, order).cumsum(dim=-1) < mass[:, None]
    last = reached.sum(dim=-1, keepdim=True).clamp(max=best.shape[1] - 1)
    removed = (shift > ordered.gather(1, last)) & (mass < 1)[:, None]
    return best.masked_fill(removed, -math.inf)
