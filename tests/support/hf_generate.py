"""Compares outputs of an engine with those of Hugging Face's ``generate``."""

from __future__ import annotations

import warnings
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
"""Relative difference of two Hugging Face scores below which hypotheses may swap."""
TOLERANCE = 1e-3
NONE = NO_SCORE / LIMITS.max_target_length**2
"""Scores below this belong to ranks without a hypothesis, whose order is arbitrary."""
JITTER = 2e-5
"""Size of random changes of log-probabilities; the sum of several is below ``NEAR_TIE``."""
_TRIES = 12
_SECONDS = 120

Outcome = GenerateOutput | NotFiniteError
"""An output, or the error that every token is forbidden."""


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        call: Keyword arguments in Hugging Face's names.
        source: Token ids of the source.
        prefix: Token ids that the target begins with.
        plan: The resolved parameters.
    """

    call: dict[str, Any]
    source: list[int]
    prefix: list[int]
    plan: SamplingParams


@dataclass(frozen=True, eq=False)
class Expected:
    """A sequence of Hugging Face: tokens without padding, and log-probabilities of generated tokens."""

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
    """Return a job that returns every beam; rejects the example if Hugging Face rejects the arguments."""
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
    raise AssertionError(f"Hugging Face accepts {call}")


def outputs_of(engine: GenerationCore, jobs: Sequence[Job]) -> list[Outcome]:
    """Return the outcomes of all jobs, which run simultaneously."""
    requests = [request(job.source, job.plan) for job in jobs]
    for one in requests:
        engine.add(one)
    return [_result(one) for one in requests]


def _result(one: Request) -> Outcome:
    try:
        return one.future.result(timeout=_SECONDS)
    except NotFiniteError as error:
        return error


class Jitter(LogitsProcessor):
    """Changes scores as rounding could, so that nearly equal beams swap."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + (torch.rand(scores.shape, generator=self._generator) - 0.5) * JITTER


def expected_of(model: PreTrainedModel, job: Job, *processors: LogitsProcessor) -> list[Expected]:
    """Return the sequences of ``generate``, best first."""
    with warnings.catch_warnings():
        # Hugging Face warns of a minimal length beyond the maximal one, and so forbids the end of a target.
        warnings.filterwarnings("ignore", message="Unfeasible length constraints")
        result = model.generate(
            torch.tensor([job.source]),
            attention_mask=torch.ones(1, len(job.source), dtype=torch.long),
            decoder_input_ids=torch.tensor([job.prefix]),
            return_dict_in_generate=True,
            output_scores=True,
            logits_processor=LogitsProcessorList(processors),
            **job.call,
        )
    beams = getattr(result, "beam_indices", None)
    logprobs = model.compute_transition_scores(
        result.sequences, result.scores, beams, normalize_logits=beams is None
    )
    lengths = [_length(job, sequence) for sequence in result.sequences.tolist()]
    begin = len(job.prefix)
    pairs = list(zip(result.sequences.tolist(), logprobs, lengths, strict=True))
    rows = [(ids[:n], row[: n - begin].double().numpy()) for ids, row, n in pairs]
    scores = result.sequences_scores.tolist() if beams is not None else [row.sum() for _, row in rows]
    return [Expected(ids, score, row) for (ids, row), score in zip(rows, scores, strict=True)]


def _length(job: Job, sequence: list[int]) -> int:
    """Return the length up to the first end-of-sequence token after the prefix."""
    for position in range(len(job.prefix), len(sequence)):
        if sequence[position] in job.plan.eos_token_ids:
            return position + 1
    return len(sequence)


def check(model: PreTrainedModel, job: Job, output: Outcome) -> None:
    """Assert that tokens, scores, log-probabilities and finish reasons equal those of Hugging Face.

    Sequences have the same order, except for nearly equal scores. If such a tie decided which beams were
    kept, Hugging Face must return the same after a small random change of its scores. If every token is
    forbidden, the engine fails the request, and Hugging Face has no hypothesis.
    """
    expected = expected_of(model, job)
    if isinstance(output, NotFiniteError):
        best = expected[0].score
        assert best < NONE or not np.isfinite(best), f"{job}: found {output}, expected {expected}"
        return
    try:
        compare(expected, job, output)
    except AssertionError:
        moved = [expected_of(model, job, Jitter(seed)) for seed in range(_TRIES)]
        if not any(_agrees(other, job, output) for other in moved):
            raise


def _agrees(expected: list[Expected], job: Job, output: GenerateOutput) -> bool:
    try:
        compare(expected, job, output)
    except AssertionError:
        return False
    return True


def compare(expected: list[Expected], job: Job, output: GenerateOutput) -> None:
    """As ``check``, for one result of Hugging Face."""
    left = list(expected)
    assert len(output.sequences) == len(left)
    by_place = [one.score for one in left]
    for score, found in zip(by_place, output.sequences, strict=True):
        if score < NONE and found.token_ids.tolist() == job.prefix:
            assert found.score < NONE
            continue
        ids = _normalized(job, found.token_ids.tolist())
        same = [
            one
            for one in left
            if _normalized(job, one.token_ids) == ids and _near(one.score, score, NEAR_TIE)
        ]
        assert same, f"{job}: found {found}, expected {left}"
        left.remove(same[0])
        assert _near(found.score, same[0].score, TOLERANCE), f"{job}: found {found}, expected {same[0]}"
        np.testing.assert_allclose(found.logprobs, same[0].logprobs, atol=TOLERANCE, rtol=TOLERANCE)
        assert found.finish_reason == _reason(job, found)


def _normalized(job: Job, ids: list[int]) -> list[int]:
    """Normalize the last token: several forced end tokens have the same score, and any may be chosen."""
    forced = job.plan["forced_eos_token_id"]
    if len(forced) > 1 and len(ids) == job.plan.max_length and ids[-1] in forced:
        return [*ids[:-1], forced[0]]
    return ids


def _near(one: float, other: float, share: float) -> bool:
    return one == other or abs(one - other) < share * max(1e-3, abs(one), abs(other))


def _reason(job: Job, found: GeneratedSequence) -> str:
    return "stop" if int(found.token_ids[-1]) in job.plan.eos_token_ids else "length"
