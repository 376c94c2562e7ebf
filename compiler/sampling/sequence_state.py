"""How far each row has come, and how a chosen token takes it on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from precast.graphs.sampling import AT_EOS, AT_LENGTH, INVALID, RUNNING


@dataclass(frozen=True)
class Progress:
    """The state that every way of choosing reads and writes; see ``graphs.sampling.state_buffers``."""

    tokens: Tensor
    positions: Tensor
    history: Tensor
    finished: Tensor
    logprobs: Tensor
    prefix_lengths: Tensor
    max_lengths: Tensor
    eos_token_ids: Tensor

    def advance(self, rows: Tensor, token: Tensor, logprob: Tensor) -> Tensor:
        """Append ``token`` ``[C]`` to ``rows`` ``[C]``, where they are running; gives what was appended.

        Inside a prefix the next token is the prefix's own.
        """
        position = self.positions[rows].long()
        running = self.finished[rows] == RUNNING
        following = torch.where(running, position + 1, position)
        given = running & (following < self.prefix_lengths[rows])
        token = torch.where(given | ~running, self.history[rows, following], token.to(torch.int32))
        logprob = torch.where(given, 0.0, logprob)
        ends = self.ending(rows, token, following + 1, logprob)
        code = torch.where(running & ~given, ends, self.finished[rows])
        self.logprobs.index_put_(
            (rows, following), torch.where(running, logprob, self.logprobs[rows, following])
        )
        self.history.index_put_((rows, following), token)
        self.tokens.index_put_((rows,), token)
        self.positions.index_put_((rows,), following.to(torch.int32))
        self.finished.index_put_((rows,), code)
        return token

    def ending(self, rows: Tensor, token: Tensor, length: Tensor, logprob: Tensor) -> Tensor:
        """Whether and why a row ends with ``token`` as the last of ``length``."""
        at_eos = (token[..., None] == self.eos_token_ids[rows]).any(dim=-1)
        at_length = length >= self.max_lengths[rows]
        code = torch.where(at_eos, AT_EOS, torch.where(at_length, AT_LENGTH, RUNNING))
        return torch.where(logprob.isnan(), INVALID, code).to(torch.int32)
