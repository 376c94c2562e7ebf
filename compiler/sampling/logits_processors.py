"""The ``logits_processors`` graph: logits to scores, as Hugging Face's logits processors compute them.

Every processor is arithmetic over all rows: which of them act is data, so one captured graph serves every mix
of requests. A row whose parameters are neutral keeps its logits bit by bit.

A new processor is a row in ``graphs.generation_parameters`` and a function with ``@processor`` here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import LogSoftmaxTerms
from precast.graphs.sampling import TOKEN_BIAS_BUFFERS


class Rows:
    """What processors read of the ``R`` sequences whose logits they change; row ``i`` is sequence
    ``seq_ids[i]``.

    Args:
        buffers: The buffers of ``graphs.sampling.logits_processors_signature`` by name.
    """

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self.buffers = buffers
        self.seq_ids = buffers["seq_ids"].long()
        self.length = self["positions"].long() + 1
        """``[R]``: tokens so far, start token and prefix included."""
        self.history = self["history"]
        """``[R, max_target_length]``, valid up to ``length``."""
        self.target = self.history[:, buffers["self_span"].long()]
        """``[R, S]``: the histories up to the longest one."""
        self.source = self["source_ids"][:, buffers["cross_span"].long()]
        """``[R, X]``: the sources up to the longest one."""
        self.source_length = self["cross_lengths"].long()

    def __getitem__(self, name: str) -> Tensor:
        """Return a state buffer or parameter by row, ``[R, ...]``."""
        return self.buffers[name][self.seq_ids]

    @cached_property
    def recent(self) -> Tensor:
        """``[R, ngram]``: column ``g`` is the token ``ngram_span[g]`` (1, 2, ...) before the next one."""
        index = (self.length[:, None] - self.buffers["ngram_span"].long()[None, :]).clamp(min=0)
        return self.history.gather(1, index)

    @cached_property
    def forced(self) -> Tensor:
        """``[R, n]``: tokens that must come next, at the first position or the last; -1 for none."""
        bos, eos = self["forced_bos_token_id"], self["forced_eos_token_id"]
        first, last = self.length == 1, self.length == self["max_length"] - 1
        ids = torch.where(first[:, None], bos[:, None], -1).expand(eos.shape)
        return torch.where(last[:, None] & (eos[:, :1] >= 0), eos, ids)

    @cached_property
    def biases(self) -> TokenBiases:
        """The table of token biases."""
        names = [buffer.name for buffer in TOKEN_BIAS_BUFFERS]
        return TokenBiases(**{name.removeprefix("bias_"): self.buffers[name] for name in names})

    @cached_property
    def acting_biases(self) -> Tensor:
        """``[K]``, bool: which entries of the table act in this step."""
        return self.biases.acting(self)


@dataclass(frozen=True, eq=False)
class TokenBiases:
    """The buffers of ``graphs.sampling.TOKEN_BIAS_BUFFERS``."""

    logits_indices: Tensor
    tokens: Tensor
    values: Tensor
    firsts: Tensor
    lasts: Tensor
    afters: Tensor
    prefixes: Tensor
    prefix_lengths: Tensor

    def acting(self, rows: Rows) -> Tensor:
        """Return which entries act in this step, bool ``[K]``."""
        row, count = self.logits_indices.long(), self.prefix_lengths.long()
        length = rows.length[row]
        step = torch.arange(self.prefixes.shape[1], device=row.device)
        before = (length[:, None] - count[:, None] + step[None, :]).clamp(0, rows.history.shape[1] - 1)
        same = (rows.history[row[:, None], before] == self.prefixes) | (step[None, :] >= count[:, None])
        return (self.firsts <= length) & (length <= self.lasts) & same.all(dim=1) & (count < length)

    def add(self, scores: Tensor, acting: Tensor) -> Tensor:
        values = torch.where(acting, self.values, 0.0)
        return scores.index_put((self.logits_indices.long(), self.tokens.long()), values, accumulate=True)


Processor = Callable[[Tensor, Rows], Tensor]
"""From scores, fp32 ``[R, vocab]``, to scores."""

PROCESSORS: list[Processor] = []
"""All processors, in Hugging Face's order."""


def processor(function: Processor) -> Processor:
    """Append a processor to the graph. Processors run in the order of their definition."""
    PROCESSORS.append(function)
    return function


class LogitsProcessors(nn.Module):
    """Takes the buffers of ``graphs.sampling.logits_processors_signature``; returns scores ``[R, vocab]``."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax_terms = LogSoftmaxTerms()

    def forward(self, buffers: Mapping[str, Tensor]) -> Tensor:
        rows, logits = Rows(buffers), buffers["logits"]
        every = torch.arange(logits.shape[0], device=logits.device)
        largest, total = self.log_softmax_terms(logits, every, rows["as_logprobs"] > 0)
        scores: Tensor = logits - largest[:, None] - total[:, None]
        for process in PROCESSORS:
            scores = process(scores, rows)
        return scores


@processor
def forbid_all_but_forced(scores: Tensor, rows: Rows) -> Tensor:
    # First, where it fuses with the pass over the logits; other processors keep what is forbidden.
    return torch.where(rows.forced[:, :1] >= 0, -math.inf, scores)


@processor
def biases_before_forced(scores: Tensor, rows: Rows) -> Tensor:
    return rows.biases.add(scores, rows.acting_biases & (rows.biases.afters == 0))


@processor
def encoder_repetition_penalty(scores: Tensor, rows: Rows) -> Tensor:
    return _penalize(scores, rows.source, rows.source_length, rows["encoder_repetition_penalty"])


@processor
def repetition_penalty(scores: Tensor, rows: Rows) -> Tensor:
    return _penalize(scores, rows.target, rows.length, rows["repetition_penalty"])


@processor
def no_repeat_ngram_size(scores: Tensor, rows: Rows) -> Tensor:
    return _forbid_ngrams(scores, rows, rows.target, rows.length, rows["no_repeat_ngram_size"])


@processor
def encoder_no_repeat_ngram_size(scores: Tensor, rows: Rows) -> Tensor:
    size = rows["encoder_no_repeat_ngram_size"]
    return _forbid_ngrams(scores, rows, rows.source, rows.source_length, size)


@processor
def allow_forced(scores: Tensor, rows: Rows) -> Tensor:
    """Forced tokens get a score of zero; a row without any writes its own scores back."""
    # The list is filled up with its first token.
    ids = torch.where(rows.forced >= 0, rows.forced, rows.forced[:, :1]).clamp(min=0).long()
    kept = torch.where(rows.forced[:, :1] >= 0, 0.0, scores.gather(1, ids))
    return _put(scores, ids, kept)


@processor
def biases_after_forced(scores: Tensor, rows: Rows) -> Tensor:
    return rows.biases.add(scores, rows.acting_biases & (rows.biases.afters != 0))


def _penalize(scores: Tensor, text: Tensor, length: Tensor, penalty: Tensor) -> Tensor:
    """Scores of the tokens in ``text`` ``[R, S]``: negative ones times the penalty, others divided by it."""
    position = torch.arange(text.shape[1], device=text.device)
    # Behind the end stands the first token, which is there anyway and gets the same new score twice.
    tokens = torch.where(position[None, :] < length[:, None], text, text[:, :1]).long()
    current, by = scores.gather(1, tokens), penalty[:, None]
    return _put(scores, tokens, torch.where(current < 0, current * by, current / by))


def _forbid_ngrams(scores: Tensor, rows: Rows, text: Tensor, length: Tensor, size: Tensor) -> Tensor:
    """Forbid each token of ``text`` ``[R, S]`` that follows the last ``size - 1`` tokens of the target."""
    position = torch.arange(text.shape[1], device=text.device)
    back = rows.buffers["ngram_span"].long()
    earlier = (position[:, None] - back[None, :]).clamp(min=0)
    same = text[:, earlier] == rows.recent[:, None, :]
    beyond = back[None, :] >= size[:, None]
    follows = (same | beyond[:, None, :]).all(dim=2)
    whole = (position[None, :] >= size[:, None] - 1) & (position[None, :] < length[:, None])
    forbidden = follows & whole & (size > 0)[:, None] & (rows.length >= size - 1)[:, None]
    values = torch.where(forbidden, -math.inf, 0.0)
    row = torch.arange(text.shape[0], device=text.device)[:, None].expand(text.shape)
    return scores.index_put((row, text.long()), values, accumulate=True)


def _put(scores: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Write ``values`` ``[R, S]`` at ``tokens``; unlike scatter, this compiles to writes in place."""
    row = torch.arange(tokens.shape[0], device=tokens.device)[:, None].expand(tokens.shape)
    return scores.index_put((row, tokens), values)
