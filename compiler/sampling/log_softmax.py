"""What log-softmax takes from scores, without the scores: they are millions, and mostly nobody asks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Log-softmax is a row less its largest score, less the logarithm of what is left of its sum."""

    def forward(self, scores: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        """The two numbers of some rows.

        Args:
            scores: fp32 ``[R, vocab]``.
            rows: int64 ``[C]``, rows of ``scores``.
            wanted: bool ``[C]``; the others get zeros.

        Returns:
            fp32 ``[2, C]``: the largest score, the logarithm of the sum. A NaN among the scores, or nothing
            but forbidden ones, make the sum NaN.
        """
        mine = scores[rows]
        largest = mine.amax(dim=-1)
        total = (mine - largest[:, None]).exp().sum(dim=-1)
        return torch.where(wanted, torch.stack((largest, total.log())), 0.0)
