"""The ``logits_processors`` graph against Hugging Face's logits processors, each request alone."""

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
"""Few tokens make n-grams repeat and sequences match."""


@dataclass(frozen=True)
class Asked:
    """A request, the histories of its sequences, their logits, and Hugging Face's scores for them."""

    plan: SamplingParams
    source: list[int]
    histories: list[list[int]]
    logits: Tensor
    expected: Tensor


def hf_scores(
    call: dict[str, Any], asked_source: list[int], past: Tensor, logits: Tensor, written: int
) -> Tensor:
    if call["num_beams"] > 1:
        logits = logits.log_softmax(dim=-1)
    return hf_processors(MODEL, call, asked_source, written)(past, logits)


@st.composite
def asked(draw: st.DrawFn, values: dict[str, st.SearchStrategy[Any]], most: int) -> Asked:
    call = draw(some_of(values, most)) | {
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
    return Asked(make_plan(LIMITS, VOCAB, call, prefix), source, histories, logits, expected)


def scores(call: Call, requests: Sequence[Asked], order: Sequence[int], spare: int) -> Tensor:
    """One launch for all requests.

    Args:
        call: the graph.
        requests: their rows follow each other among the logits.
        order: the rows of state that are used, in this order.
        spare: by how much each span reaches further than it must.
    """
    state, left = DecoderState(LIMITS), list(order)
    # Unwritten state must not matter.
    generator = np.random.default_rng(0)
    for name in ("history", "source_ids"):
        state.arrays[name][:] = generator.integers(0, 5, state.arrays[name].shape)
    rows: list[int] = []
    entries: list[tuple[int, TokenBias]] = []
    for one in requests:
        mine = [left.pop() for _ in one.histories]
        begin(state, mine, one.plan, one.source)
        for row, history in zip(mine, one.histories, strict=True):
            state.arrays["history"][row, : len(history)] = history
            state.arrays["positions"][row] = len(history) - 1
            entries += [(len(rows), bias) for bias in one.plan.token_biases]
            rows.append(row)
    ngrams = [
        max(one.plan["no_repeat_ngram_size"], one.plan["encoder_no_repeat_ngram_size"]) for one in requests
    ]
    spans = {
        "self_span": max(len(one.histories[0]) for one in requests),
        "cross_span": max(len(one.source) for one in requests),
    }
    limits = {"self_span": LIMITS.max_target_length, "cross_span": LIMITS.max_source_length}
    given = {
        "seq_ids": integers(rows),
        "logits": torch.cat([one.logits for one in requests]),
        **{name: integers(range(max(2, min(limits[name], n + spare)))) for name, n in spans.items()},
        "ngram_span": integers(range(1, max(2, *ngrams, 0) + 1 + spare)),
        **token_bias_table(entries),
    }
    found: Tensor = call(buffers(SIGNATURE, state, given))
    return found


@cache
def graph(kind: str) -> Call:
    return LogitsProcessors() if kind == "module" else portable(LogitsProcessors(), SIGNATURE)


ORDERS = st.permutations(range(LIMITS.max_num_seqs))


def requests_of(values: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[list[Asked]]:
    # The host doubles a single sequence.
    lists = st.lists(asked(values, most), min_size=1, max_size=4)
    return lists.filter(lambda many: sum(len(one.histories) for one in many) > 1)


def check(kind: str, requests: list[Asked], order: list[int], spare: int) -> None:
    found = scores(graph(kind), requests, order, spare)
    expected = torch.cat([one.expected for one in requests])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@settings(deadline=None, max_examples=200)
@given(requests=requests_of(VALUES, 6), order=ORDERS, spare=st.integers(0, 3))
def test_mixed_requests_have_hugging_faces_scores(
    requests: list[Asked], order: list[int], spare: int
) -> None:
    check("module", requests, order, spare)


@pytest.mark.parametrize("name", VALUES)
@settings(deadline=None, max_examples=30)
@given(data=st.data(), order=ORDERS, spare=st.integers(0, 3))
def test_each_parameter_alone(name: str, data: st.DataObject, order: list[int], spare: int) -> None:
    check("module", data.draw(requests_of({name: VALUES[name]}, 1)), order, spare)


@settings(deadline=None, max_examples=40)
@given(requests=requests_of(VALUES, 6), order=ORDERS, spare=st.integers(0, 3))
def test_the_portable_program_does_the_same(requests: list[Asked], order: list[int], spare: int) -> None:
    check("program", requests, order, spare)


@settings(deadline=None, max_examples=40)
@given(neutral=asked({}, 0), others=st.lists(asked(VALUES, 6), min_size=1, max_size=3), order=ORDERS)
def test_neutral_requests_keep_their_logits_bit_by_bit(
    neutral: Asked, others: list[Asked], order: list[int]
) -> None:
    """Logits of beams become log-probabilities, the same as alone."""
    beams = neutral.plan.mode == "beam"
    kept = logprobs(neutral.logits) if beams else neutral.logits
    for place in (0, len(others)):
        requests = [*others[:place], neutral, *others[place:]]
        first = sum(len(one.histories) for one in requests[:place])
        found = scores(graph("module"), requests, order, spare=1)[first : first + len(kept)]
        assert torch.equal(found.view(torch.int32), kept.view(torch.int32))


def logprobs(logits: Tensor) -> Tensor:
    """Not by torch's log-softmax, which may round the last bit otherwise."""
    rows = torch.arange(len(logits))
    largest, total = LogSoftmaxTerms()(logits, rows, torch.ones_like(rows, dtype=torch.bool))
    found: Tensor = logits - largest[:, None] - total[:, None]
    torch.testing.assert_close(found, logits.log_softmax(dim=-1))
    return found


ACTS: dict[str, tuple[Any, list[int], list[int]]] = {
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
    value, history, changed = ACTS[name]
    plan = make_plan(LIMITS, VOCAB, {name: value, "max_length": 5, "eos_token_id": 1})
    logits = torch.full((2, VOCAB), 1.5)
    found = scores(LogitsProcessors(), [Asked(plan, [5, 3, 6], [history] * 2, logits, logits)], range(3), 0)
    assert (found[0] != logits[0]).nonzero()[:, 0].tolist() == changed


def test_forcing_a_suppressed_token_is_refused() -> None:
    with pytest.raises(OptionError, match="every token of forced_bos_token_id"):
        make_plan(LIMITS, VOCAB, {"forced_bos_token_id": 3, "suppress_tokens": [3]})
