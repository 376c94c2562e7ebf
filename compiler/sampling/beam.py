"""The ``sample.beam`` graph: one step of beam search, equal to that of Hugging Face's ``_beam_search``.

There are ``G`` groups of ``B`` beams. A step takes the ``K`` best continuations of a group, enough for ``B``
to be left if all others have ended. It continues with the best that have not ended. Ended ones among the
first ``B`` join the group's hypotheses, of which the best ``B`` are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import LogSoftmaxTerms
from precast.compiler.sampling.sequence_state import SequenceState
from precast.compiler.sampling.top_k import Best, best_continuations
from precast.graphs.generation_parameters import EARLY_STOPPING, EOS_TOKENS
from precast.graphs.sampling import AT_EOS, AT_LENGTH, INVALID, NO_SCORE, RUNNING

_CONTINUATIONS = 1 + EOS_TOKENS
"""Continuations of each beam: one is left even if all end tokens are among the best."""


@dataclass(frozen=True)
class Hypotheses:
    """The finished sequences of each group, best first, in the state of the group's sequences."""

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor
    scores: Tensor
    done: Tensor

    @classmethod
    def of(cls, buffers: Mapping[str, Tensor]) -> Hypotheses:
        names = ("hypothesis_logprobs", "hypothesis_lengths", "hypothesis_scores", "hypothesis_done")
        return cls(buffers["hypotheses"], *(buffers[name] for name in names))


@dataclass(frozen=True)
class Settings:
    """The parameters of each group, ``[G, 1]``."""

    length_penalty: Tensor
    early: Tensor
    never: Tensor

    @classmethod
    def of(cls, buffers: Mapping[str, Tensor], head: Tensor) -> Settings:
        """Return those of the groups whose first sequences are ``head`` ``[G, 1]``."""
        early = buffers["early_stopping"][head]
        return cls(
            buffers["length_penalty"][head],
            early == EARLY_STOPPING[True],
            early == EARLY_STOPPING["never"],
        )

    def per_length(self, score: Tensor, length: Tensor) -> Tensor:
        """``score / length ** length_penalty``, the power in fp64 as Python has it."""
        return score / length.double().pow(self.length_penalty.double()).float()


@dataclass(frozen=True)
class Step:
    """The progress of each group.

    Attributes:
        seq_ids: ``[G, B]``.
        position: ``[G, 1]``, of the last token.
        prompt: ``[G, 1]``, tokens of the prefix.
        running: ``[G, 1]``, whether the group has not ended.
        given: ``[G, 1]``, whether its next token is one of the prefix.
    """

    seq_ids: Tensor
    position: Tensor
    prompt: Tensor
    running: Tensor
    given: Tensor

    @property
    def searching(self) -> Tensor:
        return self.running & ~self.given

    @property
    def generated(self) -> Tensor:
        """Tokens behind the prefix, including the one that this step adds."""
        return self.position + 2 - self.prompt


@dataclass(frozen=True)
class Continuations:
    """The best ``[G, K]``, by falling score."""

    score: Tensor
    parent: Tensor
    token: Tensor
    logprob: Tensor
    ends: Tensor

    def pick(self, rank: Tensor) -> Continuations:
        return Continuations(*(value.gather(1, rank) for value in vars(self).values()))


class Beam(nn.Module):
    """Takes the buffers of ``graphs.sampling.beam_signature``; returns each beam's parent, ``[G, B]``."""

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax_terms = LogSoftmaxTerms()

    def forward(self, buffers: Mapping[str, Tensor]) -> Tensor:
        state, hypotheses = SequenceState.of(buffers), Hypotheses.of(buffers)
        seq_ids, span = buffers["seq_ids"].long(), buffers["self_span"].long()
        beam_scores, improvable = buffers["beam_scores"], buffers["improvable"]
        head = seq_ids[:, :1]
        settings, step = Settings.of(buffers, head), _step(state, seq_ids)
        best = _continuations(self._best(buffers, seq_ids), step, state)
        going = _going_on(best, seq_ids.shape[1])

        possible = improvable[head] > 0
        merged, from_old = _merged(best, step, settings, hypotheses, possible)
        _write_hypotheses(hypotheses, merged, from_old, step, state, span)
        possible = possible & _can_improve(going, merged, step, settings, state.max_length[head])
        code = _code(best, merged, possible, settings)

        beams = torch.arange(seq_ids.shape[1], device=seq_ids.device)
        parent = torch.where(step.searching, going.parent, beams)
        _follow(step, state, buffers["kv_slots"], going, parent, span)
        searched = step.searching.expand(seq_ids.shape)
        for table, value in (
            (beam_scores, going.score),
            (state.finished, code),
            (improvable, possible.to(torch.int32)),
        ):
            _write(table, seq_ids, torch.where(searched, value, table[seq_ids]))
        return parent.to(torch.int32)

    def _best(self, buffers: Mapping[str, Tensor], seq_ids: Tensor) -> Best:
        scores, rows = buffers["scores"], buffers["logits_indices"].long()
        renormalize = buffers["renormalize_logits"][seq_ids] > 0
        terms = self.log_softmax_terms(scores, rows.flatten(), renormalize.flatten()).unflatten(1, rows.shape)
        sums = buffers["beam_scores"][seq_ids]
        return best_continuations(scores, rows, sums, terms, _CONTINUATIONS)


def _follow(
    step: Step,
    state: SequenceState,
    kv_slots: Tensor,
    going: Continuations,
    parent: Tensor,
    span: Tensor,
) -> None:
    """Copy the past of each beam's parent, then append the tokens."""
    seq_ids, parents = step.seq_ids, step.seq_ids.gather(1, parent)
    position = torch.where(step.running, step.position + 1, step.position).expand(seq_ids.shape)
    token = torch.where(step.searching, going.token.to(torch.int32), state.history[seq_ids, position])
    logprob = torch.where(step.given, 0.0, going.logprob)
    logprob = torch.where(step.running, logprob, state.logprobs[seq_ids, position])
    # Slots ahead of the position belong to the sequence itself and are not shared.
    past = (span[None, None, :] <= step.position[..., None]) & step.searching[..., None]
    for table in (state.history, state.logprobs, kv_slots):
        kept = _read(table, seq_ids, span)
        _write_span(table, seq_ids, span, torch.where(past, _read(table, parents, span), kept))
    state.history.index_put_((seq_ids, position), token)
    state.logprobs.index_put_((seq_ids, position), logprob)
    _write(state.tokens, seq_ids, token)
    _write(state.positions, seq_ids, position.to(torch.int32))


def _step(state: SequenceState, seq_ids: Tensor) -> Step:
    head = seq_ids[:, :1]
    position, prompt = state.positions[head].long(), state.prefix_lengths[head].long()
    running = state.finished[head] == RUNNING
    return Step(seq_ids, position, prompt, running, running & (position + 1 < prompt))


def _continuations(best: Best, step: Step, state: SequenceState) -> Continuations:
    head = step.seq_ids[:, :1].expand(best.token.shape)
    ends = state.ending(head, best.token, step.position + 2, best.logprob) != RUNNING
    return Continuations(best.score, best.beam, best.token, best.logprob, ends)


def _going_on(best: Continuations, beams: int) -> Continuations:
    """The best that have not ended; if there are too few, ended ones with a score that never recovers."""
    score = best.score + torch.where(best.ends, NO_SCORE, 0.0)
    score, rank = torch.topk(score, beams, dim=-1, sorted=True)
    picked = best.pick(rank)
    return Continuations(score, picked.parent, picked.token, picked.logprob, picked.ends)


@dataclass(frozen=True)
class Merged:
    """The best hypotheses of old and new, ``[G, B]``."""

    score: Tensor
    done: Tensor
    old: Tensor
    """The old hypothesis of this rank, if it is one."""
    new: Continuations


def _merged(
    best: Continuations, step: Step, settings: Settings, hypotheses: Hypotheses, possible: Tensor
) -> tuple[Merged, Tensor]:
    seq_ids, beams = step.seq_ids, step.seq_ids.shape[1]
    first = torch.arange(best.score.shape[1], device=seq_ids.device)[None, :] < beams
    ended = best.ends & first
    old_score, old_done = hypotheses.scores[seq_ids], hypotheses.done[seq_ids] > 0
    full = old_done.all(dim=1, keepdim=True) & settings.early
    score = settings.per_length(best.score, step.generated)
    for refused in (full.expand(score.shape), (~possible).expand(score.shape), ~ended):
        score = score + torch.where(refused, NO_SCORE, 0.0)
    merged, rank = torch.topk(torch.cat((old_score, score), dim=1), beams, dim=-1, sorted=True)
    done = torch.cat((old_done, ended), dim=1).gather(1, rank)
    from_old = rank < beams
    new = best.pick((rank - beams).clamp(min=0))
    return Merged(merged, done, rank.clamp(max=beams - 1), new), from_old


def _write_hypotheses(
    hypotheses: Hypotheses, merged: Merged, from_old: Tensor, step: Step, state: SequenceState, span: Tensor
) -> None:
    seq_ids = step.seq_ids
    old, source = seq_ids.gather(1, merged.old), seq_ids.gather(1, merged.new.parent)
    changes, position = step.searching, (step.position + 1).clamp(max=hypotheses.tokens.shape[1] - 1)
    position = position.expand(seq_ids.shape)
    for table, written, last in (
        (hypotheses.tokens, state.history, merged.new.token.to(torch.int32)),
        (hypotheses.logprobs, state.logprobs, merged.new.logprob),
    ):
        kept, fresh = _read(table, old, span), _read(written, source, span)
        past = torch.where(from_old[..., None], kept, fresh)
        end = torch.where(from_old, table[old, position], last)
        end = torch.where(changes, end, table[seq_ids, position])
        _write_span(table, seq_ids, span, torch.where(changes[..., None], past, _read(table, seq_ids, span)))
        table.index_put_((seq_ids, position), end)
    length = torch.where(from_old, hypotheses.lengths[old], (step.position + 2).to(torch.int32))
    for table, value in (
        (hypotheses.lengths, length),
        (hypotheses.scores, merged.score),
        (hypotheses.done, merged.done.to(torch.int32)),
    ):
        _write(table, seq_ids, torch.where(changes, value, table[seq_ids]))


def _can_improve(
    going: Continuations, merged: Merged, step: Step, settings: Settings, max_length: Tensor
) -> Tensor:
    """Whether by HF's estimate the best running beam could still beat the worst hypothesis, ``[G, 1]``."""
    longest = settings.never & (settings.length_penalty > 0)
    length = torch.where(longest, max_length.long() - step.prompt, step.generated)
    hoped = settings.per_length(going.score[:, :1], length)
    worst = torch.where(merged.done, merged.score.amin(dim=1, keepdim=True), NO_SCORE)
    return (hoped > worst).any(dim=1, keepdim=True)


def _code(best: Continuations, merged: Merged, possible: Tensor, settings: Settings) -> Tensor:
    """Whether and why a group ends, ``[G, 1]``."""
    complete = merged.done.all(dim=1, keepdim=True) & settings.early
    stuck = best.ends.all(dim=1, keepdim=True)
    code = torch.where(~possible | complete, AT_EOS, torch.where(stuck, AT_LENGTH, RUNNING))
    top = best.score[:, :1]
    return torch.where(top.isnan() | top.isneginf(), INVALID, code).to(torch.int32)


def _read(table: Tensor, seq_ids: Tensor, span: Tensor) -> Tensor:
    return table[seq_ids[..., None], span]


def _write(table: Tensor, seq_ids: Tensor, value: Tensor) -> None:
    table.index_put_((seq_ids,), value)


def _write_span(table: Tensor, seq_ids: Tensor, span: Tensor, value: Tensor) -> None:
    table.index_put_((seq_ids[..., None], span), value)
