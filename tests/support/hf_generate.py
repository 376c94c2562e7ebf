"""Requests to the engine, and what Hugging Face's ``generate`` answers to the same: tokens, scores, logprobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import reject
from transformers import GenerationConfig, PreTrainedModel

from precast.artifacts.generation import GenerationDefaults
from precast.runtime.errors import OptionError
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput
from precast.runtime.generation.parameters import resolve
from precast.runtime.generation.plan import Plan
from precast.runtime.generation.worker import GenerationWorker
from tests.support.generation import LIMITS, request

NEAR_TIE = 1e-4
"""Two hypotheses whose scores in Hugging Face lie nearer than this may change places."""
TOLERANCE = 1e-3
_SECONDS = 120


@dataclass(frozen=True)
class Job:
    """One request: what is asked for, in Hugging Face's names, and of what."""

    call: dict[str, Any]
    source: list[int]
    prefix: list[int]
    plan: Plan


@dataclass(frozen=True, eq=False)
class Expected:
    """A sequence of Hugging Face's: tokens without padding, score, and logprobs of those behind the prefix."""

    token_ids: list[int]
    score: float
    logprobs: np.ndarray


def make_job(
    call: Mapping[str, Any],
    source: list[int],
    prefix: Sequence[int],
    vocab: int,
    defaults: GenerationDefaults | None = None,
) -> Job:
    """A job of which every beam is returned; the draw is rejected where Hugging Face refuses its arguments."""
    beams = call.get("num_beams", 1)
    call = {**call, "num_return_sequences": beams} if beams > 1 else dict(call)
    defaults = defaults or GenerationDefaults(decoder_start_token_id=0)
    start = defaults.decoder_start_token_id
    assert start is not None
    begun = [*prefix] if [*prefix[:1]] == [start] else [start, *prefix]
    try:
        plan = resolve(defaults, LIMITS, vocab, call, begun)
    except OptionError:
        _refused_by_hugging_face_too(call)
        reject()
    return Job(call, source, begun, plan)


def _refused_by_hugging_face_too(call: Mapping[str, Any]) -> None:
    try:
        GenerationConfig(**call)
    except ValueError:
        return
    raise AssertionError(f"Hugging Face takes {call}")


def answers(engine: GenerationWorker, jobs: Sequence[Job]) -> list[GenerateOutput]:
    """All are in flight at once."""
    requests = [request(job.source, job.plan) for job in jobs]
    for one in requests:
        engine.add(one)
    return [one.future.result(timeout=_SECONDS) for one in requests]


def expected_of(model: PreTrainedModel, job: Job) -> list[Expected]:
    """What ``generate`` answers, best first."""
    found = model.generate(
        torch.tensor([job.source]),
        attention_mask=torch.ones(1, len(job.source), dtype=torch.long),
        decoder_input_ids=torch.tensor([job.prefix]),
        return_dict_in_generate=True,
        output_scores=True,
        **job.call,
    )
    beams = getattr(found, "beam_indices", None)
    logprobs = model.compute_transition_scores(
        found.sequences, found.scores, beams, normalize_logits=beams is None
    )
    lengths = [_length(job, sequence) for sequence in found.sequences.tolist()]
    begin = len(job.prefix)
    pairs = list(zip(found.sequences.tolist(), logprobs, lengths, strict=True))
    rows = [(ids[:n], row[: n - begin].double().numpy()) for ids, row, n in pairs]
    scores = found.sequences_scores.tolist() if beams is not None else [row.sum() for _, row in rows]
    return [Expected(ids, score, row) for (ids, row), score in zip(rows, scores, strict=True)]


def _length(job: Job, sequence: list[int]) -> int:
    """Up to the first token behind the prefix that ends it."""
    for place in range(len(job.prefix), len(sequence)):
        if sequence[place] in job.plan.eos_token_ids:
            return place + 1
    return len(sequence)


def check(model: PreTrainedModel, job: Job, answer: GenerateOutput) -> None:
    """Every sequence of ``answer`` is one of Hugging Face's, in tokens, score, logprobs and reason.

    They come in its order, except where two of its scores are about equal.
    """
    left = expected_of(model, job)
    assert len(answer.sequences) == len(left)
    by_place = [one.score for one in left]
    for score, found in zip(by_place, answer.sequences, strict=True):
        ids = _told_apart(job, found.token_ids.tolist())
        same = [
            one for one in left if _told_apart(job, one.token_ids) == ids and _near(one.score, score, NEAR_TIE)
        ]
        assert same, f"{job}: found {found}, expected {left}"
        left.remove(same[0])
        assert _near(found.score, same[0].score, TOLERANCE), f"{job}: found {found}, expected {same[0]}"
        np.testing.assert_allclose(found.logprobs, same[0].logprobs, atol=TOLERANCE, rtol=TOLERANCE)
        assert found.finish_reason == _reason(job, found)


def _told_apart(job: Job, ids: list[int]) -> list[int]:
    """Several tokens that are forced at the end score the same, 0: any of them may be taken."""
    forced = job.plan.forced_eos_token_ids
    if len(forced) > 1 and len(ids) == job.plan.max_length and ids[-1] in forced:
        return [*ids[:-1], forced[0]]
    return ids


def _near(one: float, other: float, share: float) -> bool:
    return one == other or abs(one - other) < share * max(1e-3, abs(one), abs(other))


def _reason(job: Job, found: GeneratedSequence) -> str:
    return "eos" if int(found.token_ids[-1]) in job.plan.eos_token_ids else "length"
