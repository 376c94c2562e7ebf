"""The ``sample.multinomial`` graph: a random token among those that Hugging Face's warpers leave."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from precast.compiler.sampling.random import uniform
from precast.compiler.sampling.sequence_state import SequenceState
from precast.compiler.sampling.top_k import best_tokens


class Multinomial(nn.Module):
    """Takes the buffers of ``graphs.sampling.multinomial_signature`` by name; returns the tokens, int32
    ``[C]``.

    All steps work on the best candidates, sorted, in Hugging Face's order: temperature, top-k, top-p, min-p
    and typical-p. Tokens that tie with the last of the top k are kept as far as they are candidates.
    """

    def forward(self, buffers: Mapping[str, Tensor]) -> Tensor:
        state, seq_ids = SequenceState.of(buffers), buffers["seq_ids"].long()

        def param(name: str) -> Tensor:
            return buffers[name][seq_ids]

        best, ids = best_tokens(
            buffers["scores"], buffers["logits_indices"].long(), buffers["candidate_span"].shape[0]
        )
        best = _top_k(best / param("temperature")[:, None], param("top_k").long())
        best = _top_p(best, param("top_p"))
        best = _min_p(best, param("min_p"))
        probabilities = _typical_p(best, param("typical_p")).softmax(dim=-1)
        below = probabilities.cumsum(dim=-1)
        random = uniform(param("seed"), state.positions[seq_ids].long())[:, None] * below[:, -1:]
        index = (below <= random).sum(dim=-1, keepdim=True).clamp(max=best.shape[1] - 1)
        token = ids.gather(1, index)[:, 0]
        return state.advance(seq_ids, token, probabilities.gather(1, index)[:, 0].log())


def _top_k(best: Tensor, k: Tensor) -> Tensor:
    last = torch.where(k > 0, k, best.shape[1]).clamp(max=best.shape[1]) - 1
    return best.masked_fill(best < best.gather(1, last[:, None]), -math.inf)


def _top_p(best: Tensor, p: Tensor) -> Tensor:
    """Remove the tail whose probabilities, summed from the smallest, are at most ``1 - p``."""
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
    below_mass = probabilities.gather(1, order).cumsum(dim=-1) < mass[:, None]
    last = below_mass.sum(dim=-1, keepdim=True).clamp(max=best.shape[1] - 1)
    removed = (shift > ordered.gather(1, last)) & (mass < 1)[:, None]
    return best.masked_fill(removed, -math.inf)
