"""The ``sample.greedy`` graph: the token with the best score."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import LogSoftmaxTerms
from precast.compiler.sampling.sequence_state import SequenceState


class Greedy(nn.Module):
    """Takes the buffers of ``graphs.sampling.greedy_signature``; returns the tokens, int32 ``[C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax_terms = LogSoftmaxTerms()

    def forward(self, buffers: Mapping[str, Tensor]) -> Tensor:
        scores, rows = buffers["scores"], buffers["logits_indices"].long()
        _, total = self.log_softmax_terms(scores, rows, torch.ones_like(rows, dtype=torch.bool))
        # The best score is the largest one, so its log-probability is minus the second term.
        token = scores[rows].argmax(dim=-1)
        return SequenceState.of(buffers).advance(buffers["seq_ids"].long(), token, -total)
