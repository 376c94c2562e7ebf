"""The ``token_biases`` graph: logits to scores, as Hugging Face's logits processors make them, in their order.

A row whose parameters are neutral keeps its logits bit by bit. Every bias is arithmetic over all rows: which
of them act is data, so that one captured graph serves every mix of requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import Normalizer


@dataclass(frozen=True)
class Entries:
    """The table of token_biases that name tokens; see ``graphs.sampling.logits_processors_signature``."""

    rows: Tensor
    tokens: Tensor
    values: Tensor
    firsts: Tensor
    lasts: Tensor
    afters: Tensor
    prefixes: Tensor
    prefix_lengths: Tensor


class LogitsProcessors(nn.Module):
    """Takes the named buffers of ``graphs.sampling.logits_processors_signature``; gives scores, fp32 ``[R, vocab]``."""

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = Normalizer()

    def forward(
        self,
        seq_ids: Tensor,
        logits: Tensor,
        positions: Tensor,
        history: Tensor,
        source_ids: Tensor,
        cross_lengths: Tensor,
        max_lengths: Tensor,
        as_logprobs: Tensor,
        repetition_penalties: Tensor,
        encoder_repetition_penalties: Tensor,
        no_repeat_ngram_sizes: Tensor,
        encoder_no_repeat_ngram_sizes: Tensor,
        forced_bos_token_ids: Tensor,
        forced_eos_token_ids: Tensor,
        bias_rows: Tensor,
        bias_tokens: Tensor,
        bias_firsts: Tensor,
        bias_lasts: Tensor,
        bias_afters: Tensor,
        bias_prefix_lengths: Tensor,
        bias_prefixes: Tensor,
        bias_values: Tensor,
        self_span: Tensor,
        cross_span: Tensor,
        ngram_span: Tensor,
    ) -> Tensor:
        at = seq_ids.long()
        length = positions[at].long() + 1
        entries = Entries(
            bias_rows, bias_tokens, bias_values, bias_firsts, bias_lasts, bias_afters, bias_prefixes,
            bias_prefix_lengths,
        )  # fmt: skip
        written, source = history[at], source_ids[at]
        used, source_length = self_span.long(), cross_lengths[at].long()
        past, text = written[:, used], source[:, cross_span.long()]
        last = length == max_lengths[at] - 1
        forced = _forced(length == 1, forced_bos_token_ids[at], last, forced_eos_token_ids[at])
        every = torch.arange(logits.shape[0], device=logits.device)
        largest, total = self.normalizer(logits, every, as_logprobs[at] > 0)
        scores = logits - largest[:, None] - total[:, None]
        # Ahead of the other token_biases, which leave what is forbidden: so it takes no pass of its own.
        scores = torch.where(forced[:, :1] >= 0, -math.inf, scores)
        acts = _acting(entries, written, length)
        scores = _add(scores, entries, acts & (entries.afters == 0))
        scores = _penalize(scores, text, source_length, encoder_repetition_penalties[at])
        scores = _penalize(scores, past, length, repetition_penalties[at])
        recent = RecentTokens(written, length, ngram_span.long())
        scores = _forbid_ngrams(scores, past, length, no_repeat_ngram_sizes[at], recent)
        scores = _forbid_ngrams(scores, text, source_length, encoder_no_repeat_ngram_sizes[at], recent)
        scores = _allow(scores, forced)
        return _add(scores, entries, acts & (entries.afters != 0))


def _acting(entries: Entries, written: Tensor, length: Tensor) -> Tensor:
    """Which entries act, ``[K]``."""
    row, count = entries.rows.long(), entries.prefix_lengths.long()
    reached = length[row]
    step = torch.arange(entries.prefixes.shape[1], device=row.device)
    before = (reached[:, None] - count[:, None] + step[None, :]).clamp(0, written.shape[1] - 1)
    same = (written[row[:, None], before] == entries.prefixes) | (step[None, :] >= count[:, None])
    return (entries.firsts <= reached) & (reached <= entries.lasts) & same.all(dim=1) & (count < reached)


def _add(scores: Tensor, entries: Entries, acts: Tensor) -> Tensor:
    values = torch.where(acts, entries.values, 0.0)
    return scores.index_put((entries.rows.long(), entries.tokens.long()), values, accumulate=True)


def _penalize(scores: Tensor, text: Tensor, length: Tensor, penalty: Tensor) -> Tensor:
    """Scores of the tokens in ``text`` ``[R, S]``: negative ones times the penalty, others divided by it."""
    place = torch.arange(text.shape[1], device=text.device)
    # Behind the end stands the first token again: one that is there anyway, with the same new score.
    tokens = torch.where(place[None, :] < length[:, None], text, text[:, :1]).long()
    found, by = scores.gather(1, tokens), penalty[:, None]
    return _put(scores, tokens, torch.where(found < 0, found * by, found / by))


@dataclass(frozen=True)
class RecentTokens:
    """The last tokens of each row: ``tokens[:, g]`` is the one ``span[g]`` (1, 2, ...) before the next."""

    written: Tensor
    length: Tensor
    span: Tensor

    @property
    def tokens(self) -> Tensor:
        place = (self.length[:, None] - self.span[None, :]).clamp(min=0)
        return self.written.gather(1, place)


def _forbid_ngrams(scores: Tensor, text: Tensor, length: Tensor, size: Tensor, back: RecentTokens) -> Tensor:
    """Forbid what in ``text`` ``[R, S]`` comes after the tokens that are the last ``size - 1`` of the row."""
    place = torch.arange(text.shape[1], device=text.device)
    earlier = (place[:, None] - back.span[None, :]).clamp(min=0)
    same = text[:, earlier] == back.tokens[:, None, :]
    beyond = back.span[None, :] >= size[:, None]
    follows = (same | beyond[:, None, :]).all(dim=2)
    whole = (place[None, :] >= size[:, None] - 1) & (place[None, :] < length[:, None])
    forbidden = follows & whole & (size > 0)[:, None] & (back.length >= size - 1)[:, None]
    values = torch.where(forbidden, -math.inf, 0.0)
    row = torch.arange(text.shape[0], device=text.device)[:, None].expand(text.shape)
    return scores.index_put((row, text.long()), values, accumulate=True)


def _forced(first: Tensor, bos: Tensor, last: Tensor, eos: Tensor) -> Tensor:
    """The tokens that a row must have, at its first position or at its last, ``[R, n]``; -1 for none."""
    ids = torch.where(first[:, None], bos[:, None], -1).expand(eos.shape)
    return torch.where(last[:, None] & (eos[:, :1] >= 0), eos, ids)


def _allow(scores: Tensor, forced: Tensor) -> Tensor:
    """Give ``forced`` tokens a score of zero; a row that is not forced writes back what it had."""
    # What fills up the list repeats its first token.
    ids = torch.where(forced >= 0, forced, forced[:, :1]).clamp(min=0).long()
    kept = torch.where(forced[:, :1] >= 0, 0.0, scores.gather(1, ids))
    return _put(scores, ids, kept)


def _put(scores: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """``values`` ``[R, S]`` in the places of ``tokens``; unlike scatter, this compiles to writes in place."""
    row = torch.arange(tokens.shape[0], device=tokens.device)[:, None].expand(tokens.shape)
    return scores.index_put((row, tokens), values)
