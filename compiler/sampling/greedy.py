"""The ``sample.greedy`` graph: the token with the best score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import Normalizer
from precast.compiler.sampling.sequence_state import Progress


class Greedy(nn.Module):
    """Takes the named buffers of ``graphs.sample.greedy_signature``; gives the tokens, int32 ``[C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = Normalizer()

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
    ) -> Tensor:
        progress = Progress(
            tokens, positions, history, finished, logprobs, prefix_lengths, max_lengths, eos_token_ids
        )
        _, total = self.normalizer(
            scores, logits_indices.long(), torch.ones_like(logits_indices, dtype=torch.bool)
        )
        # The best score is the largest one.
        return progress.advance(seq_ids.long(), scores[logits_indices.long()].argmax(dim=-1), -total)
