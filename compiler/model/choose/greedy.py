"""The ``choose.greedy`` graph: the token with the best score."""

from __future__ import annotations

from torch import Tensor, nn

from precast.compiler.model.choose.progress import Progress


class Greedy(nn.Module):
    """Takes the named buffers of ``graphs.choose.greedy_signature``; gives the tokens, int32 ``[C]``."""

    def forward(
        self,
        chosen: Tensor,
        at: Tensor,
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
        mine = scores[at.long()]
        logprob = mine.amax(dim=-1) - mine.logsumexp(dim=-1)
        return progress.advance(chosen.long(), mine.argmax(dim=-1), logprob)
