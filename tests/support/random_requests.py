"""Random requests to a generation engine, and a tiny model for them."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from precast.graphs.generation_parameters import BY_NAME
from precast.runtime.generation.core import GenerationCore
from precast.runtime.generation.outputs import GenerateOutput
from precast.runtime.generation.sampling_params import SamplingParams
from precast.runtime.generation.token_bias import TokenBias
from tests.support.generation import LIMITS, request

VOCAB = 37
EOS = 1
START = 0
_FIELDS = {field.name for field in fields(SamplingParams)}
RequestSpec = tuple[tuple[int, ...], SamplingParams]
"""A source and its parameters."""


def write_t5(folder: Path, *, spread: float = 0.35) -> Path:
    """Write a T5 of two layers whose targets differ in tokens and length."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        decoder_start_token_id=START, eos_token_id=EOS, pad_token_id=START,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    model.save_pretrained(folder)
    return folder


def greedy(max_length: int = 12, **more: object) -> SamplingParams:
    """Return greedy search; ``more`` are fields of ``SamplingParams``, or entries of its ``values``."""
    values = {name: value for name, value in more.items() if name in BY_NAME.keys() - _FIELDS}
    own = {name: value for name, value in more.items() if name not in values}
    plain = {"mode": "greedy", "num_beams": 1, "num_return_sequences": 1, "prefix": (START,)}
    given: dict[str, Any] = {"max_length": max_length, "eos_token_ids": (EOS,), **plain, **own}
    return SamplingParams(**given, values=values)


def endless(max_length: int = LIMITS.max_target_length) -> SamplingParams:
    """Return greedy search that ends only at its maximal length."""
    return replace(greedy(max_length), eos_token_ids=())


def beams(count: int, max_length: int = 12, **more: object) -> SamplingParams:
    return greedy(max_length, mode="beam", num_beams=count, num_return_sequences=count, **more)


def samples(count: int, seed: int, max_length: int = 12, **more: object) -> SamplingParams:
    return greedy(max_length, mode="multinomial", num_return_sequences=count, seed=seed, **more)


SPECS: list[RequestSpec] = [
    ((5, 9, 4, 30, 2), greedy(20)),
    ((7, 7, 3), beams(3, 14)),
    (tuple(range(2, 20)), samples(2, 11, 18)),
    ((36,), greedy(17, prefix=(START, 8, 9), repetition_penalty=1.3)),
]
"""Requests of every mode, shorter and longer than a block."""


@st.composite
def plans(draw: st.DrawFn) -> SamplingParams:
    """Sample parameters of every mode, with prefixes, biases and penalties."""
    prefix = (START, *draw(st.lists(st.integers(2, VOCAB - 1), max_size=2)))
    max_length = draw(st.integers(len(prefix) + 1, 20))
    tokens = st.integers(2, VOCAB - 1)
    token_biases = tuple(
        TokenBias(token, value, first=first)
        for token, value, first in draw(
            st.lists(
                st.tuples(tokens, st.sampled_from([-math.inf, -3.0, 2.0]), st.integers(1, 6)), max_size=3
            )
        )
    )
    more = {
        "prefix": prefix,
        "token_biases": token_biases,
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.4])),
        "no_repeat_ngram_size": draw(st.sampled_from([0, 0, 2])),
    }
    mode = draw(st.sampled_from(["greedy", "beam", "multinomial"]))
    if mode == "beam":
        return beams(
            draw(st.integers(2, 4)), max_length, **more,
            length_penalty=draw(st.sampled_from([0.0, 1.0, 2.0])),
            early_stopping=draw(st.sampled_from([False, True, "never"])),
        )  # fmt: skip
    if mode == "multinomial":
        return samples(
            draw(st.integers(1, 3)), draw(st.integers(0, 2**62)), max_length, **more,
            temperature=draw(st.sampled_from([1.0, 0.7])), top_k=draw(st.sampled_from([0, 5])),
            top_p=draw(st.sampled_from([1.0, 0.9])),
        )  # fmt: skip
    return greedy(max_length, **more)


def request_specs() -> st.SearchStrategy[RequestSpec]:
    """Sample requests with sources shorter and longer than a block."""
    ids = st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=LIMITS.max_source_length)
    return st.tuples(ids.map(tuple), plans())


def output_alone(engine: GenerationCore, one: RequestSpec) -> GenerateOutput:
    """Return the output of an otherwise idle engine."""
    made = request(list(one[0]), one[1])
    engine.offer(made)
    return made.future.result(timeout=60)


def assert_same_output(found: GenerateOutput, expected: GenerateOutput) -> None:
    """Assert the same tokens; another order only among sequences with nearly equal scores."""
    pairs = zip(found.sequences, expected.sequences, strict=True)
    for index, (one, other) in enumerate(pairs):
        close = abs(one.score - other.score) <= 1e-4 * max(1.0, abs(other.score))
        assert close, f"sequence {index} has score {one.score}, alone {other.score}"
        if np.array_equal(one.token_ids, other.token_ids):
            assert one.finish_reason == other.finish_reason
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-3)
            continue
        tied = [
            each
            for each in expected.sequences
            if each is not other and abs(each.score - other.score) <= 1e-4 * max(1.0, abs(other.score))
        ]
        assert any(np.array_equal(one.token_ids, each.token_ids) for each in tied), (
            f"sequence {index} is {one.token_ids.tolist()}, alone {other.token_ids.tolist()}"
        )


def assert_empty(engine: GenerationCore) -> None:
    """Assert that the engine holds no sequences, blocks or requests."""
    stats = engine.stats()
    held = (
        stats.num_seqs_used,
        stats.self_blocks_used,
        stats.cross_blocks_used,
        stats.waiting,
        stats.running,
    )
    assert held == (0, 0, 0, 0, 0), stats
