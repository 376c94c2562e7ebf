"""The ``sample.beam`` graph: one step of beam search, as Hugging Face's ``_beam_search`` takes it.

``G`` groups of ``B`` beams. A step looks at the ``K`` best continuations of a group, enough of them for ``B``
to be left when all others have ended; goes on with the best that have not ended, and puts the ended ones
among the first ``B`` with the group's hypotheses, of which it keeps the best ``B``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precast.compiler.sampling.log_softmax import Normalizer
from precast.compiler.sampling.sequence_state import Progress
from precast.compiler.sampling.top_k import Best, best_continuations
from precast.graphs.sampling import AT_EOS, AT_LENGTH, EOS_TOKENS, INVALID, NO_SCORE, RUNNING


@dataclass(frozen=True)
class Hypotheses:
    """The finished sequences of each group, best first: a row of state for each."""

    tokens: Tensor
    logprobs: Tensor
    lengths: Tensor
    scores: Tensor
    done: Tensor


@dataclass(frozen=True)
class Settings:
    """What a group was asked for, ``[G, 1]`` each."""

    length_penalty: Tensor
    early: Tensor
    never: Tensor

    def per_length(self, score: Tensor, length: Tensor) -> Tensor:
        """``score / length ** length_penalty``, the power in fp64 as Python has it."""
        return score / length.double().pow(self.length_penalty.double()).float()


@dataclass(frozen=True)
class Step:
    """Where each group stands."""

    rows: Tensor
    """``[G, B]``."""
    position: Tensor
    """``[G, 1]``, of the last token."""
    prompt: Tensor
    """``[G, 1]``, tokens of the prefix."""
    running: Tensor
    given: Tensor
    """``[G, 1]`` each: whether the group goes on at all, and whether inside its prefix."""

    @property
    def searching(self) -> Tensor:
        return self.running & ~self.given

    @property
    def generated(self) -> Tensor:
        """Tokens behind the prefix, with the one that this step adds."""
        return self.position + 2 - self.prompt


@dataclass(frozen=True)
class Continuations:
    """The best ``[G, K]``, by falling score."""

    score: Tensor
    parent: Tensor
    token: Tensor
    logprob: Tensor
    ends: Tensor

    def pick(self, place: Tensor) -> Continuations:
        return Continuations(*(value.gather(1, place) for value in vars(self).values()))


class Beam(nn.Module):
    """Takes the named buffers of ``graphs.sample.beam_signature``; gives each beam's parent, ``[G, B]``."""

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
        kv_slots: Tensor,
        beam_scores: Tensor,
        hypotheses: Tensor,
        hypothesis_logprobs: Tensor,
        hypothesis_lengths: Tensor,
        hypothesis_scores: Tensor,
        hypothesis_done: Tensor,
        improvable: Tensor,
        prefix_lengths: Tensor,
        max_lengths: Tensor,
        eos_token_ids: Tensor,
        length_penalties: Tensor,
        early_stoppings: Tensor,
        renormalize_logits: Tensor,
        self_span: Tensor,
    ) -> Tensor:
        progress = Progress(
            tokens, positions, history, finished, logprobs, prefix_lengths, max_lengths, eos_token_ids
        )
        found = Hypotheses(
            hypotheses, hypothesis_logprobs, hypothesis_lengths, hypothesis_scores, hypothesis_done
        )
        rows = seq_ids.long()
        head, span = rows[:, :1], self_span.long()
        settings = Settings(length_penalties[head], early_stoppings[head] == 1, early_stoppings[head] == 2)
        step = _step(progress, rows)
        renormalize = renormalize_logits[rows] > 0
        taken = self.normalizer(scores, logits_indices.long().flatten(), renormalize.flatten())
        normalizer = taken.unflatten(1, rows.shape)
        best = _continuations(
            best_continuations(
                scores, logits_indices.long(), beam_scores[rows], normalizer, _enough(scores.shape[-1])
            ),
            step,
            progress,
        )
        going = _going_on(best, rows.shape[1])

        possible = improvable[head] > 0
        merged, from_old = _merged(best, step, settings, found, possible)
        _write_hypotheses(found, merged, from_old, step, progress, span)
        possible = possible & _can_improve(going, merged, step, settings, max_lengths[head])
        code = _code(best, merged, possible, settings, going)

        parent = torch.where(step.searching, going.parent, torch.arange(rows.shape[1], device=rows.device))
        self._follow(step, progress, kv_slots, going, parent, span)
        searched = step.searching.expand(rows.shape)
        _write(beam_scores, rows, torch.where(searched, going.score, beam_scores[rows]))
        _write(finished, rows, torch.where(searched, code, finished[rows]))
        _write(improvable, rows, torch.where(searched, possible.to(torch.int32), improvable[rows]))
        return parent.to(torch.int32)

    def _follow(
        self,
        step: Step,
        progress: Progress,
        kv_slots: Tensor,
        going: Continuations,
        parent: Tensor,
        span: Tensor,
    ) -> None:
        """Take over the past of the parents, then append the tokens."""
        rows, from_rows = step.rows, step.rows.gather(1, parent)
        place = torch.where(step.running, step.position + 1, step.position).expand(rows.shape)
        token = torch.where(step.searching, going.token.to(torch.int32), progress.history[rows, place])
        logprob = torch.where(step.given, 0.0, going.logprob)
        logprob = torch.where(step.running, logprob, progress.logprobs[rows, place])
        # Ahead of the position lie a row's own places, which are for nobody else to write to.
        past = (span[None, None, :] <= step.position[..., None]) & step.searching[..., None]
        for table in (progress.history, progress.logprobs, kv_slots):
            _write_span(
                table, rows, span, torch.where(past, _read(table, from_rows, span), _read(table, rows, span))
            )
        progress.history.index_put_((rows, place), token)
        progress.logprobs.index_put_((rows, place), logprob)
        _write(progress.tokens, rows, token)
        _write(progress.positions, rows, place.to(torch.int32))


def _step(progress: Progress, rows: Tensor) -> Step:
    head = rows[:, :1]
    position, prompt = progress.positions[head].long(), progress.prefix_lengths[head].long()
    running = progress.finished[head] == RUNNING
    return Step(rows, position, prompt, running, running & (position + 1 < prompt))


def _enough(vocab: int) -> int:
    """Continuations for each beam: one goes on even when all end tokens are among the best."""
    return min(1 + EOS_TOKENS, vocab)


def _continuations(best: Best, step: Step, progress: Progress) -> Continuations:
    head = step.rows[:, :1].expand(best.token.shape)
    ends = progress.ending(head, best.token, step.position + 2, best.logprob) != RUNNING
    return Continuations(best.score, best.beam, best.token, best.logprob, ends)


def _going_on(best: Continuations, beams: int) -> Continuations:
    """The best that have not ended; where there are too few, ended ones that no score can bring back."""
    score = best.score + torch.where(best.ends, NO_SCORE, 0.0)
    score, place = torch.topk(score, beams, dim=-1, sorted=True)
    picked = best.pick(place)
    return Continuations(score, picked.parent, picked.token, picked.logprob, picked.ends)


@dataclass(frozen=True)
class Merged:
    """The best hypotheses of old and new, ``[G, B]``."""

    score: Tensor
    done: Tensor
    old: Tensor
    """The old hypothesis of this place, where it is one."""
    new: Continuations


def _merged(
    best: Continuations, step: Step, settings: Settings, found: Hypotheses, possible: Tensor
) -> tuple[Merged, Tensor]:
    rows, beams = step.rows, step.rows.shape[1]
    first = torch.arange(best.score.shape[1], device=rows.device)[None, :] < beams
    ended = best.ends & first
    old_score, old_done = found.scores[rows], found.done[rows] > 0
    full = old_done.all(dim=1, keepdim=True) & settings.early
    score = settings.per_length(best.score, step.generated)
    for refused in (full.expand(score.shape), (~possible).expand(score.shape), ~ended):
        score = score + torch.where(refused, NO_SCORE, 0.0)
    merged, place = torch.topk(torch.cat((old_score, score), dim=1), beams, dim=-1, sorted=True)
    done = torch.cat((old_done, ended), dim=1).gather(1, place)
    from_old = place < beams
    new = best.pick((place - beams).clamp(min=0))
    return Merged(merged, done, place.clamp(max=beams - 1), new), from_old


def _write_hypotheses(
    found: Hypotheses, merged: Merged, from_old: Tensor, step: Step, progress: Progress, span: Tensor
) -> None:
    rows = step.rows
    old, source = rows.gather(1, merged.old), rows.gather(1, merged.new.parent)
    changes, place = step.searching, (step.position + 1).clamp(max=found.tokens.shape[1] - 1)
    place = place.expand(rows.shape)
    for table, written, last in (
        (found.tokens, progress.history, merged.new.token.to(torch.int32)),
        (found.logprobs, progress.logprobs, merged.new.logprob),
    ):
        kept, fresh = _read(table, old, span), _read(written, source, span)
        past = torch.where(from_old[..., None], kept, fresh)
        end = torch.where(from_old, table[old, place], last)
        end = torch.where(changes, end, table[rows, place])
        _write_span(table, rows, span, torch.where(changes[..., None], past, _read(table, rows, span)))
        table.index_put_((rows, place), end)
    length = torch.where(from_old, found.lengths[old], (step.position + 2).to(torch.int32))
    for table, value in (
        (found.lengths, length),
        (found.scores, merged.score),
        (found.done, merged.done.to(torch.int32)),
    ):
        _write(table, rows, torch.where(changes, value, table[rows]))


def _can_improve(
    going: Continuations, merged: Merged, step: Step, settings: Settings, max_length: Tensor
) -> Tensor:
    """Whether the best running beam could still beat the worst hypothesis, as HF estimates it, ``[G, 1]``."""
    longest = settings.never & (settings.length_penalty > 0)
    length = torch.where(longest, max_length.long() - step.prompt, step.generated)
    hoped = settings.per_length(going.score[:, :1], length)
    worst = torch.where(merged.done, merged.score.amin(dim=1, keepdim=True), NO_SCORE)
    return (hoped > worst).any(dim=1, keepdim=True)


def _code(
    best: Continuations, merged: Merged, possible: Tensor, settings: Settings, going: Continuations
) -> Tensor:
    """Whether and why a group ends, ``[G, 1]``."""
    complete = merged.done.all(dim=1, keepdim=True) & settings.early
    stuck = best.ends.all(dim=1, keepdim=True)
    code = torch.where(~possible | complete, AT_EOS, torch.where(stuck, AT_LENGTH, RUNNING))
    top = best.score[:, :1]
    return torch.where(top.isnan() | top.isneginf(), INVALID, code).to(torch.int32)


def _read(table: Tensor, rows: Tensor, span: Tensor) -> Tensor:
    return table[rows[..., None], span]


def _write(table: Tensor, rows: Tensor, value: Tensor) -> None:
    table.index_put_((rows,), value)


def _write_span(table: Tensor, rows: Tensor, span: Tensor, value: Tensor) -> None:
    table.index_put_((rows[..., None], span), value)
