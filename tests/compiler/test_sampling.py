"""The ``sample.multinomial`` graph: Hugging Face's warpers define its support, and samples are fair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from precast.compiler.sampling.multinomial import Multinomial
from precast.compiler.sampling.random import uniform
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.outputs import GenerateOutput
from tests.support.generation import LIMITS as ENGINE_LIMITS
from tests.support.generation import Model, request
from tests.support.models import save
from tests.support.random_inputs import LIMITS, SIGNATURE, VOCAB, deviation, hf_logprobs, sample
from tests.support.sampling import make_plan, portable, some_of
from tests.support.seq2seq_models import spread_t5

SAMPLES = 6000
SEEN = 4e-3
"""A token of this probability is missing from all samples with a probability below 1e-10."""
FAIR = 5.0
"""Fair samples exceed this many standard deviations with a probability below 1e-6."""
MARGIN = 1e-4
WARPERS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.5, 0.8, 1.7]),
    "top_k": st.integers(1, VOCAB - 1),
    "top_p": st.floats(0.05, 0.99),
    "min_p": st.floats(0.01, 0.9),
    "typical_p": st.floats(0.05, 0.99),
}
# Quarters often tie, and no token is so improbable that samples could miss it.
SCORES = st.lists(st.integers(-6, 6).map(lambda quarters: quarters / 4), min_size=VOCAB, max_size=VOCAB)
SEEDS = range(7, 7 + SAMPLES)


def on_an_edge(scores: torch.Tensor, call: dict[str, Any]) -> bool:
    """Return whether rounding decides which tokens Hugging Face keeps."""

    def kept(factor: float) -> torch.Tensor:
        moved = {name: value * factor if name.endswith("_p") else value for name, value in call.items()}
        return torch.isfinite(hf_logprobs(scores, moved))

    return not torch.equal(kept(1 - MARGIN), kept(1 + MARGIN))


def check_support(
    tokens: np.ndarray, logprobs: np.ndarray, scores: torch.Tensor, call: dict[str, Any]
) -> None:
    """Check tokens and probabilities; of tokens that tie at the cutoff, any may be kept."""
    expected = hf_logprobs(scores, call)
    ours = dict(zip(tokens.tolist(), logprobs.tolist(), strict=True))
    likely = sorted(value for value in expected.tolist() if value > np.log(SEEN))
    seen = sorted(value for value in ours.values() if value > np.log(SEEN))
    np.testing.assert_allclose(seen, likely, atol=1e-4)
    by_score = {
        scores[token].item(): value for token, value in enumerate(expected.tolist()) if value > -np.inf
    }
    for token, logprob in ours.items():
        np.testing.assert_allclose(logprob, by_score[scores[token].item()], atol=1e-4)


@settings(deadline=None, max_examples=100)
@given(values=SCORES, call=some_of(WARPERS, 5), data=st.data())
def test_the_support_equals_hugging_faces(
    values: list[float], call: dict[str, Any], data: st.DataObject
) -> None:
    scores = torch.tensor(values)
    assume(not on_an_edge(scores, call))
    # All tokens that tie with the last of the top k must be candidates, which the engine ensures.
    ties = int((scores >= scores.topk(call.get("top_k", VOCAB))[0][-1]).sum())
    candidates = data.draw(st.integers(max(2, ties), VOCAB))
    sampled = sample(scores.expand(SAMPLES, -1), [call], SEEDS, candidates=candidates)
    check_support(sampled.tokens, sampled.logprobs, scores, call)


@pytest.mark.parametrize("name", WARPERS)
@settings(deadline=None, max_examples=25)
@given(values=SCORES, data=st.data())
def test_each_warper_alone(name: str, values: list[float], data: st.DataObject) -> None:
    scores, call = torch.tensor(values), {name: data.draw(WARPERS[name])}
    assume(not on_an_edge(scores, call))
    sampled = sample(scores.expand(SAMPLES, -1), [call], SEEDS)
    check_support(sampled.tokens, sampled.logprobs, scores, call)


def test_forbidden_tokens_are_never_sampled() -> None:
    scores = torch.tensor([1.0, -torch.inf, 0.5, -torch.inf, 0.0, -1.0, -torch.inf, 2.0])
    for call in ({}, {"typical_p": 0.9}, {"top_p": 0.99}, {"min_p": 0.01}, {"top_k": 7}):
        sampled = sample(scores.expand(SAMPLES, -1), [call], SEEDS)
        assert not set(sampled.tokens.tolist()) & {1, 3, 6}
        assert np.isfinite(sampled.logprobs).all()


@pytest.mark.parametrize("call", [{}, {"temperature": 1.6}, {"top_k": 5}, {"top_p": 0.8, "temperature": 0.7}])
def test_samples_of_many_seeds_are_fair(call: dict[str, Any]) -> None:
    scores = torch.tensor([0.3, -1.0, 1.5, 0.0, 0.9, -0.4, 0.2, -2.0])
    for first in (0, 1 << 40):
        for position in (0, 5):
            seeds = range(first, first + SAMPLES)
            sampled = sample(scores.expand(SAMPLES, -1), [call], seeds, position=position)
            assert deviation(sampled.tokens, hf_logprobs(scores, call)) < FAIR


@pytest.mark.parametrize("seed", [0, 1, 12345, (1 << 62) + 3])
def test_random_numbers_of_one_seed_and_of_one_position_are_uniform(seed: int) -> None:
    """Over positions, over seeds, and in pairs of neighbours, which must be independent."""
    count, bins = 1 << 16, 16
    numbers = torch.arange(count)
    for sampled in (
        uniform(torch.full((count,), seed), numbers),
        uniform(numbers + (seed >> 1), torch.full((count,), 9)),
        uniform((numbers << 32) + (seed >> 1), torch.full((count,), 9)),
    ):
        assert sampled.dtype == torch.float32 and sampled.min() >= 0 and sampled.max() < 1
        bin_ids = (sampled * bins).long()
        even = torch.full((bins,), 1 / bins).log()
        assert deviation(bin_ids.numpy(), even) < FAIR
        pairs = bin_ids[:-1:2] * bins + bin_ids[1::2]
        assert deviation(pairs.numpy(), torch.full((bins * bins,), 1 / bins**2).log()) < FAIR


def test_samples_of_one_seed_over_positions_are_fair() -> None:
    scores, calls = torch.tensor([0.3, -1.0, 1.5, 0.0, 0.9, -0.4, 0.2, -2.0]), [{"top_k": 6}]
    tokens = [
        sample(scores.expand(100, -1), calls, range(seed, seed + 100), position=position).tokens
        for seed in (5, 999)
        for position in range(60)
    ]
    assert deviation(np.concatenate(tokens), hf_logprobs(scores, calls[0])) < FAIR


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(SCORES, min_size=2, max_size=6),
    calls=st.lists(some_of(WARPERS, 3), min_size=6, max_size=6),
    seeds=st.lists(st.integers(0, (1 << 62)), min_size=6, max_size=6),
    position=st.integers(0, 40),
    data=st.data(),
)
def test_a_sequence_samples_the_same_in_any_batch(
    values: list[list[float]],
    calls: list[dict[str, Any]],
    seeds: list[int],
    position: int,
    data: st.DataObject,
) -> None:
    count, scores = len(values), torch.tensor(values)
    batch = sample(scores, calls[:count], seeds[:count], position=position)
    order = data.draw(st.permutations(range(count)))
    rows = data.draw(
        st.lists(st.integers(0, LIMITS.max_num_seqs - 1), min_size=count, max_size=count, unique=True)
    )
    mixed = sample(
        scores[order], [calls[i] for i in order], [seeds[i] for i in order], position=position, rows=rows,
        graph=GRAPH,
    )  # fmt: skip
    assert mixed.tokens.tolist() == batch.tokens[order].tolist()
    for i in range(count):
        twice = sample(scores[[i, i]], [calls[i]], [seeds[i]] * 2, position=position)
        assert twice.tokens.tolist() == [batch.tokens[i]] * 2


@settings(deadline=None, max_examples=30)
@given(
    values=SCORES, top_k=st.integers(1, 4), seeds=st.lists(st.integers(0, 1 << 62), min_size=2, max_size=50)
)
def test_more_candidates_than_needed_change_nothing(
    values: list[float], top_k: int, seeds: list[int]
) -> None:
    scores = torch.tensor(values)
    ties = max(2, int((scores >= scores.topk(top_k)[0][-1]).sum()))
    results = [
        sample(scores.expand(len(seeds), -1), [{"top_k": top_k}], seeds, candidates=n)
        for n in range(ties, VOCAB + 1)
    ]
    for result in results[1:]:
        # The order of tokens with equal scores is not defined.
        assert torch.equal(scores[result.tokens.tolist()], scores[results[0].tokens.tolist()])


GRAPH = portable(Multinomial(), SIGNATURE)
WORDS = 37


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return spread_t5(WORDS)


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel) -> Iterator[GenerationCore]:
    worker = Model(save(model)).engine()
    yield worker
    worker.close()


def generate(engine: GenerationCore, calls: list[dict[str, Any]]) -> list[GenerateOutput]:
    plans = [make_plan(ENGINE_LIMITS, WORDS, {"max_length": 16, "eos_token_id": 1, **call}) for call in calls]
    requests = [request([5, 9, 4], plan) for plan in plans]
    for queued in requests:
        engine.add(queued)
    return [queued.future.result(timeout=120) for queued in requests]


SAMPLED: dict[str, Any] = {"do_sample": True, "seed": 11, "temperature": 1.3, "top_p": 0.9, "top_k": 9}


def test_a_request_samples_the_same_alone_and_among_others(engine: GenerationCore) -> None:
    (alone,) = generate(engine, [SAMPLED])
    others = [
        {"num_beams": 3},
        {"num_beams": 1},
        {**SAMPLED, "seed": 4, "top_k": 0, "num_return_sequences": 3},
    ]
    for index in range(len(others) + 1):
        batched = generate(engine, [*others[:index], SAMPLED, *others[index:]])[index]
        assert batched.token_ids.tolist() == alone.token_ids.tolist()
        np.testing.assert_allclose(batched.sequences[0].logprobs, alone.sequences[0].logprobs, atol=1e-4)


def test_logprobs_belong_to_the_warped_distribution(engine: GenerationCore, model: PreTrainedModel) -> None:
    call = {key: SAMPLED[key] for key in ("temperature", "top_p", "top_k")}
    for seed in range(6):
        (output,) = generate(engine, [{**SAMPLED, "seed": seed}])
        ids = output.token_ids.tolist()
        with torch.no_grad():
            logits = model(torch.tensor([[5, 9, 4]]), decoder_input_ids=torch.tensor([ids])).logits[0]
        expected = [hf_logprobs(logits[at], call)[ids[at + 1]].item() for at in range(len(ids) - 1)]
        np.testing.assert_allclose(output.sequences[0].logprobs, expected, atol=1e-3)
        assert output.score == pytest.approx(sum(expected), abs=1e-2)


def test_the_sequences_of_a_request_are_different_samples(engine: GenerationCore) -> None:
    (output,) = generate(engine, [{"do_sample": True, "top_k": 0, "seed": 3, "num_return_sequences": 6}])
    sequences = [tuple(sequence.token_ids.tolist()) for sequence in output.sequences]
    assert len(set(sequences)) == 6
    singles = generate(engine, [{"do_sample": True, "top_k": 0, "seed": 3 + index} for index in range(6)])
    assert sequences == [tuple(single.token_ids.tolist()) for single in singles]
