"""Direct calls of ``sample.multinomial``, and the distribution after Hugging Face's warpers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from precast.compiler.sampling.multinomial import Multinomial
from precast.graphs.sampling import multinomial_signature
from precast.graphs.seq2seq import GenerateLimits
from precast.runtime.generation.state import DecoderState
from tests.support.sampling import Call, begin, buffers, integers, make_plan

VOCAB = 8
LIMITS = GenerateLimits(
    max_source_length=2, max_target_length=64, max_tokens=4, max_batch=2, max_num_seqs=6000
)
SIGNATURE = multinomial_signature()


@dataclass(frozen=True, eq=False)
class Sampled:
    """The token and logprob of each sequence."""

    tokens: np.ndarray
    logprobs: np.ndarray


def sample(
    scores: Tensor,
    calls: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    graph: Call | None = None,
    position: int = 0,
    candidates: int = VOCAB,
    rows: Sequence[int] | None = None,
) -> Sampled:
    """Launch the graph once for all sequences.

    Args:
        scores: fp32 ``[R, VOCAB]``.
        calls: Arguments of each sequence in Hugging Face's names, or one for all.
        seeds: Seed of each sequence.
        graph: The graph; the module by default.
        position: Position of the last token of every sequence.
        candidates: Number of the best tokens to sample among.
        rows: Sequences of the state, in the order of ``scores``; the first ones by default.
    """
    state, count = DecoderState(LIMITS), len(seeds)
    mine = list(range(count) if rows is None else rows)
    for index, call in enumerate(calls):
        plan = make_plan(LIMITS, VOCAB, {"do_sample": True, "top_k": 0, "seed": 0, "max_length": 64, **call})
        begin(state, mine if len(calls) == 1 else [mine[index]], plan, [3])
    state.arrays["seed"][mine] = seeds
    state.arrays["positions"][mine] = position
    given = {
        "seq_ids": integers(mine),
        "logits_indices": integers(range(count)),
        "scores": scores,
        "candidate_span": integers(range(candidates)),
    }
    tokens = (graph or Multinomial())(buffers(SIGNATURE, state, given)).numpy()
    assert (state.arrays["history"][mine, position + 1] == tokens).all()
    return Sampled(tokens, state.arrays["logprobs"][mine, position + 1])


def hf_logprobs(scores: Tensor, call: Mapping[str, float]) -> Tensor:
    """Return log-probabilities ``[VOCAB]`` after Hugging Face's warpers, in the order of ``generate``."""
    kinds = {
        "temperature": lambda value: hf.TemperatureLogitsWarper(float(value)),
        "top_k": hf.TopKLogitsWarper,
        "top_p": hf.TopPLogitsWarper,
        "min_p": hf.MinPLogitsWarper,
        "typical_p": lambda value: hf.TypicalLogitsWarper(mass=value),
    }
    warm = scores[None].clone()
    for name, make in kinds.items():
        if name in call:
            warm = make(call[name])(torch.zeros(1, 1, dtype=torch.long), warm)
    return warm[0].log_softmax(dim=-1)


def deviation(tokens: np.ndarray, logprobs: Tensor) -> float:
    """Return the chi-square statistic of counts in standard deviations, after Wilson and Hilferty."""
    kept = np.isfinite(logprobs.numpy())
    counts = np.bincount(tokens, minlength=len(kept))
    assert counts[~kept].sum() == 0
    expected = np.exp(logprobs.double().numpy()[kept]) * len(tokens)
    freedom = int(kept.sum()) - 1
    statistic = float(((counts[kept] - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
