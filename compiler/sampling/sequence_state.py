"""The state of each sequence that every sampling graph reads and advances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from precast.graphs.sampling import AT_EOS, AT_LENGTH, INVALID, RUNNING, SEQUENCE_STATE


@dataclass(frozen=True, eq=False)
class SequenceState:
    """The buffers of ``graphs.sampling.SEQUENCE_STATE``; see ``state_buffers`` there."""

    tokens: Tensor
    positions: Tensor
    history: Tensor
    finished: Tensor
    logprobs: Tensor
    prefix_lengths: Tensor
    max_length: Tensor
    eos_token_id: Tensor

    @classmethod
    def of(cls, buffers: Mapping[str, Tensor]) -> SequenceState:
        """Return the state among the inputs of a graph."""
        return cls(**{name: buffers[name] for name in SEQUENCE_STATE})

    def advance(self, seq_ids: Tensor, token: Tensor, logprob: Tensor) -> Tensor:
        """Append a token to each running sequence.

        Inside its prefix a sequence takes the prefix's own token instead.

        Args:
            seq_ids: int64 ``[C]``.
            token: ``[C]``, the sampled tokens.
            logprob: fp32 ``[C]``, their log-probabilities.

        Returns:
            int32 ``[C]``: the tokens that were appended.
        """
        position = self.positions[seq_ids].long()
        running = self.finished[seq_ids] == RUNNING
        following = torch.where(running, position + 1, position)
        given = running & (following < self.prefix_lengths[seq_ids])
        token = torch.where(given | ~running, self.history[seq_ids, following], token.to(torch.int32))
        logprob = torch.where(given, 0.0, logprob)
        ends = self.ending(seq_ids, token, following + 1, logprob)
        code = torch.where(running & ~given, ends, self.finished[seq_ids])
        self.logprobs.index_put_(
            (seq_ids, following), torch.where(running, logprob, self.logprobs[seq_ids, following])
        )
        self.history.index_put_((seq_ids, following), token)
        self.tokens.index_put_((seq_ids,), token)
        self.positions.index_put_((seq_ids,), following.to(torch.int32))
        self.finished.index_put_((seq_ids,), code)
        return token

    def ending(self, seq_ids: Tensor, token: Tensor, length: Tensor, logprob: Tensor) -> Tensor:
        """Return the value of ``finished`` for sequences of ``length`` tokens that end in ``token``."""
        at_eos = (token[..., None] == self.eos_token_id[seq_ids]).any(dim=-1)
        at_length = length >= self.max_length[seq_ids]
        code = torch.where(at_eos, AT_EOS, torch.where(at_length, AT_LENGTH, RUNNING))
        return torch.where(logprob.isnan(), INVALID, code).to(torch.int32)
