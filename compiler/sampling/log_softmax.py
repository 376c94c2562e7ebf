"""The two terms that log-softmax subtracts, without the log-probabilities of a whole vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LogSoftmaxTerms(nn.Module):
    """Log-softmax of a row is the row minus its largest score, minus the logarithm of the remaining sum."""

    def forward(self, scores: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """Return both terms for some rows.

        Args:
            scores: fp32 ``[R, vocab]``.
            rows: int64 ``[C]``, rows of ``scores``.
            wanted: bool ``[C]``; the terms of other rows are zeros.

        Returns:
            fp32 ``[2, C]``: the largest score, and the logarithm of the sum. The latter is NaN if a score is
            NaN or every score is minus infinity.
        """
        mine = scores[rows]
        largest = mine.amax(dim=-1)
        total = (mine - largest[:, None]).exp().sum(dim=-1)
        return torch.where(wanted, torch.stack((largest, total.log())), 0.0)
