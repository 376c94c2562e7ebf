"""Requests to the engine, and what Hugging Face's ``generate`` answers to the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import reject
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from precast.artifacts.generation_defaults import GenerationDefaults
from precast.graphs.sampling import NO_SCORE
from precast.runtime.errors import NotFiniteError, OptionError
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.outputs import GeneratedSequence, GenerateOutput
from precast.runtime.generation.request import Request
from precast.runtime.generation.sampling_params import SamplingParams, resolve
from tests.support.generation import LIMITS, request

NEAR_TIE = 1e-4
"""Two hypotheses whose scores in Hugging Face lie nearer than this may change places."""
TOLERANCE = 1e-3
NONE = NO_SCORE / LIMITS.max_target_length**2
"""Below it lie the places for which there was no hypothesis, of which none is better than another."""
JITTER = 2e-5
"""Of log-probabilities: in a sum of several less than ``NEAR_TIE``."""
_TRIES = 12
_SECONDS = 120

Answer = GenerateOutput | NotFiniteError
"""The error is that of scores that forbid every token."""


@dataclass(frozen=True)
class Job:
    """One request: what is asked for, in Hugging Face's names, and of what."""

    call: dict[str, Any]
    source: list[int]
    prefix: list[int]
    plan: SamplingParams


@dataclass(frozen=True, eq=False)
class Expected:
    """A sequence of Hugging Face's: tokens without padding, and logprobs of those behind the prefix."""

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
    """A job that returns every beam; the draw is rejected where Hugging Face refuses the arguments."""
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


def answers(engine: GenerationCore, jobs: Sequence[Job]) -> list[Answer]:
    """All are in flight at once."""
    requests = [request(job.source, job.plan) for job in jobs]
    for one in requests:
        engine.add(one)
    return [_result(one) for one in requests]


def _result(one: Request) -> Answer:
    try:
        return one.future.result(timeout=_SECONDS)
    except NotFiniteError as error:
        return error


class Jitter(LogitsProcessor):
    """Moves scores by no more than rounding could, so that beams that are about equal change places."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + (torch.rand(scores.shape, generator=self._generator) - 0.5) * JITTER


def expected_of(model: PreTrainedModel, job: Job, *processors: LogitsProcessor) -> list[Expected]:
    """What ``generate`` answers, best first."""
    found = model.generate(
        torch.tensor([job.source]),
        attention_mask=torch.ones(1, len(job.source), dtype=torch.long),
        decoder_input_ids=torch.tensor([job.prefix]),
        return_dict_in_generate=True,
        output_scores=True,
        logits_processor=LogitsProcessorList(processors),
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


def check(model: PreTrainedModel, job: Job, answer: Answer) -> None:
    """Every sequence of ``answer`` is one of Hugging Face's, in tokens, score, logprobs and reason.

    They come in its order, except where two of its scores are about equal. Where such a tie decided which
    which beams went on, Hugging Face must answer the same once its scores are moved a little. Where every
    token is forbidden the engine says so, and Hugging Face has no hypothesis.
    """
    expected = expected_of(model, job)
    if isinstance(answer, NotFiniteError):
        best = expected[0].score
        assert best < NONE or not np.isfinite(best), f"{job}: found {answer}, expected {expected}"
        return
    try:
        compare(expected, job, answer)
    except AssertionError:
        moved = [expected_of(model, job, Jitter(seed)) for seed in range(_TRIES)]
        if not any(_agrees(other, job, answer) for other in moved):
            raise


def _agrees(expected: list[Expected], job: Job, answer: GenerateOutput) -> bool:
    try:
        compare(expected, job, answer)
    except AssertionError:
        return False
    return True


def compare(expected: list[Expected], job: Job, answer: GenerateOutput) -> None:
    """As ``check``, with one answer of Hugging Face's."""
    left = list(expected)
    assert len(answer.sequences) == len(left)
    by_place = [one.score for one in left]
    for score, found in zip(by_place, answer.sequences, strict=True):
        if score < NONE and found.token_ids.tolist() == job.prefix:
            assert found.score < NONE
            continue
        ids = _told_apart(job, found.token_ids.tolist())
        same = [
            one
            for one in left
            if _told_apart(job, one.token_ids) == ids and _near(one.score, score, NEAR_TIE)
        ]
        assert same, f"{job}: found {found}, expected {left}"
        left.remove(same[0])
        assert _near(found.score, same[0].score, TOLERANCE), f"{job}: found {found}, expected {same[0]}"
        np.testing.assert_allclose(found.logprobs, same[0].logprobs, atol=TOLERANCE, rtol=TOLERANCE)
        assert found.finish_reason == _reason(job, found)


def _told_apart(job: Job, ids: list[int]) -> list[int]:
    """Several tokens that are forced at the end score the same, 0: any of them may be taken."""
    forced = job.plan["forced_eos_token_id"]
    if len(forced) > 1 and len(ids) == job.plan.max_length and ids[-1] in forced:
        return [*ids[:-1], forced[0]]
    return ids


def _near(one: float, other: float, share: float) -> bool:
    return one == other or abs(one - other) < share * max(1e-3, abs(one), abs(other))


def _reason(job: Job, found: GeneratedSequence) -> str:
    return "stop" if int(found.token_ids[-1]) in job.plan.eos_token_ids else "length"
