"""The ``logits_processors`` graph compared with Hugging Face's logits processors on each request alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from precast.compiler.sampling.log_softmax import LogSoftmaxTerms
from precast.compiler.sampling.logits_processors import LogitsProcessors
from precast.graphs.sampling import logits_processors_signature
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.errors import OptionError
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.state import DecoderState
from precast.runtime.generation.token_bias import TokenBias, token_bias_table
from tests.support.sampling import (
    Call,
    begin,
    bias_values,
    buffers,
    hf_processors,
    integers,
    make_plan,
    portable,
    some_of,
)

VOCAB = 11
LIMITS = GenerateLimits(
    max_source_length=10, max_target_length=14, max_tokens=64, max_batch=4, max_num_seqs=12
)
SIGNATURE = logits_processors_signature()
MODEL = T5ForConditionalGeneration(T5Config(vocab_size=VOCAB, d_model=4, d_kv=2, d_ff=4, num_layers=1))
VALUES = bias_values(VOCAB)
FEW_TOKENS = st.integers(0, 4)
"""Token ids from a small set, in which n-grams repeat and token sequences match."""


@dataclass(frozen=True)
class Case:
    """A request with Hugging Face's scores for it.

    Attributes:
        plan: parameters of the request.
        source: token ids of the source.
        histories: token ids generated so far, for each sequence of the request.
        logits: logits of each sequence, fp32 ``[sequences, vocab]``.
        expected: Hugging Face's scores, in the same shape.
    """

    plan: SamplingParams
    source: list[int]
    histories: list[list[int]]
    logits: Tensor
    expected: Tensor


def hf_scores(
    call: dict[str, Any], source: list[int], past: Tensor, logits: Tensor, prefix_length: int
) -> Tensor:
    if call["num_beams"] > 1:
        logits = logits.log_softmax(dim=-1)
    return hf_processors(MODEL, call, source, prefix_length)(past, logits)


@st.composite
def cases(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]], max_values: int) -> Case:
    call = draw(some_of(values, max_values)) | {
        "num_beams": draw(st.integers(1, 3)),
        "max_length": draw(st.integers(6, LIMITS.max_target_length)),
        "eos_token_id": draw(st.sampled_from([[1], [1, 2]])),
    }
    source = draw(st.lists(FEW_TOKENS, min_size=1, max_size=LIMITS.max_source_length))
    prefix = draw(st.lists(FEW_TOKENS, max_size=2))
    begun = prefix if prefix[:1] == [0] else [0, *prefix]
    length = draw(st.one_of(st.integers(len(begun), call["max_length"] - 1), st.just(call["max_length"] - 1)))
    more = st.lists(FEW_TOKENS, min_size=length - len(begun), max_size=length - len(begun))
    histories = [begun + draw(more) for _ in range(call["num_beams"])]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logits = torch.randn(call["num_beams"], VOCAB, generator=generator) * 3
    expected = hf_scores(call, source, torch.tensor(histories), logits, len(begun))
    return Case(make_plan(LIMITS, VOCAB, call, prefix), source, histories, logits, expected)


def scores(call: Call, requests: Sequence[Case], order: Sequence[int], spare: int) -> Tensor:
    """Return the scores of all requests from one launch, fp32 ``[sequences, vocab]``.

    Args:
        call: The graph.
        requests: The requests, whose logits are concatenated.
        order: Sequence ids to assign; the last one is assigned first.
        spare: Number of unused entries at the end of each span.
    """
    state, free = DecoderState(LIMITS), list(order)
    # Unwritten state must not matter.
    generator = np.random.default_rng(0)
    for name in ("history", "source_ids"):
        state.arrays[name][:] = generator.integers(0, 5, state.arrays[name].shape)
    seq_ids: list[int] = []
    entries: list[tuple[int, TokenBias]] = []
    for case in requests:
        allocated = [free.pop() for _ in case.histories]
        begin(state, allocated, case.plan, case.source)
        for seq_id, history in zip(allocated, case.histories, strict=True):
            state.arrays["history"][seq_id, : len(history)] = history
            state.arrays["positions"][seq_id] = len(history) - 1
            entries += [(len(seq_ids), bias) for bias in case.plan.token_biases]
            seq_ids.append(seq_id)
    ngrams = [
        max(case.plan["no_repeat_ngram_size"], case.plan["encoder_no_repeat_ngram_size"]) for case in requests
    ]
    spans = {
        "self_span": max(len(case.histories[0]) for case in requests),
        "cross_span": max(len(case.source) for case in requests),
    }
    limits = {"self_span": LIMITS.max_target_length, "cross_span": LIMITS.max_source_length}
    inputs = {
        "seq_ids": integers(seq_ids),
        "logits": torch.cat([case.logits for case in requests]),
        **{name: integers(range(max(2, min(limits[name], n + spare)))) for name, n in spans.items()},
        "ngram_span": integers(range(1, max(2, *ngrams, 0) + 1 + spare)),
        **token_bias_table(entries),
    }
    result: Tensor = call(buffers(SIGNATURE, state, inputs))
    return result


@cache
def graph(kind: str) -> Call:
    return LogitsProcessors() if kind == "module" else portable(LogitsProcessors(), SIGNATURE)


ORDERS = st.permutations(range(LIMITS.max_num_seqs))


def requests_of(values: dict[str, st.SearchStrategy[Any]], max_values: int) -> st.SearchStrategy[list[Case]]:
    # Graphs need two sequences; the host duplicates a single one.
    lists = st.lists(cases(values, max_values), min_size=1, max_size=4)
    return lists.filter(lambda requests: sum(len(case.histories) for case in requests) > 1)


def check(kind: str, requests: list[Case], order: list[int], spare: int) -> None:
    ours = scores(graph(kind), requests, order, spare)
    expected = torch.cat([case.expected for case in requests])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@settings(deadline=None, max_examples=200)
@given(requests=requests_of(VALUES, 6), order=ORDERS, spare=st.integers(0, 3))
def test_mixed_requests_have_hugging_faces_scores(requests: list[Case], order: list[int], spare: int) -> None:
    check("module", requests, order, spare)


@pytest.mark.parametrize("name", VALUES)
@settings(deadline=None, max_examples=30)
@given(data=st.data(), order=ORDERS, spare=st.integers(0, 3))
def test_each_parameter_alone(name: str, data: st.DataObject, order: list[int], spare: int) -> None:
    check("module", data.draw(requests_of({name: VALUES[name]}, 1)), order, spare)


@settings(deadline=None, max_examples=40)
@given(requests=requests_of(VALUES, 6), order=ORDERS, spare=st.integers(0, 3))
def test_the_portable_program_computes_the_same(requests: list[Case], order: list[int], spare: int) -> None:
    check("program", requests, order, spare)


@settings(deadline=None, max_examples=40)
@given(neutral=cases({}, 0), others=st.lists(cases(VALUES, 6), min_size=1, max_size=3), order=ORDERS)
def test_neutral_requests_keep_their_logits_bit_by_bit(
    neutral: Case, others: list[Case], order: list[int]
) -> None:
    """Except that the logits of beams become log-probabilities, as they would alone."""
    beams = neutral.plan.mode == "beam"
    kept = logprobs(neutral.logits) if beams else neutral.logits
    for index in (0, len(others)):
        requests = [*others[:index], neutral, *others[index:]]
        first = sum(len(case.histories) for case in requests[:index])
        ours = scores(graph("module"), requests, order, spare=1)[first : first + len(kept)]
        assert torch.equal(ours.view(torch.int32), kept.view(torch.int32))


def logprobs(logits: Tensor) -> Tensor:
    """Return log-probabilities as the graph rounds them; torch's log-softmax may differ in the last bit."""
    rows = torch.arange(len(logits))
    largest, total = LogSoftmaxTerms()(logits, rows, torch.ones_like(rows, dtype=torch.bool))
    result: Tensor = logits - largest[:, None] - total[:, None]
    torch.testing.assert_close(result, logits.log_softmax(dim=-1))
    return result


EFFECTS: dict[str, tuple[Any, list[int], list[int]]] = {
    "sequence_bias": ([[[4, 3, 7], 2.0]], [0, 3, 4, 3], [7]),
    "encoder_repetition_penalty": (2.0, [0, 3, 4, 3], [3, 5, 6]),
    "repetition_penalty": (2.0, [0, 3, 4, 3], [0, 3, 4]),
    "no_repeat_ngram_size": (2, [0, 3, 4, 3], [4]),
    "encoder_no_repeat_ngram_size": (2, [0, 3, 4, 3], [6]),
    "bad_words_ids": ([[3, 8]], [0, 3, 4, 3], [8]),
    "min_length": (5, [0, 3, 4, 3], [1]),
    "min_new_tokens": (4, [0, 3, 4, 3], [1]),
    "forced_bos_token_id": (9, [0], [*range(VOCAB)]),
    "forced_eos_token_id": (9, [0, 3, 4, 3], [*range(VOCAB)]),
    "suppress_tokens": ([10], [0, 3, 4, 3], [10]),
    "begin_suppress_tokens": ([10], [0], [10]),
}


@pytest.mark.parametrize("name", VALUES)
def test_each_parameter_has_an_effect(name: str) -> None:
    value, history, changed = EFFECTS[name]
    plan = make_plan(LIMITS, VOCAB, {name: value, "max_length": 5, "eos_token_id": 1})
    logits = torch.full((2, VOCAB), 1.5)
    ours = scores(LogitsProcessors(), [Case(plan, [5, 3, 6], [history] * 2, logits, logits)], range(3), 0)
    assert (ours[0] != logits[0]).nonzero()[:, 0].tolist() == changed


def test_forcing_a_suppressed_token_is_rejected() -> None:
    with pytest.raises(OptionError, match="every token of forced_bos_token_id"):
        make_plan(LIMITS, VOCAB, {"forced_bos_token_id": 3, "suppress_tokens": [3]})
