"""Top-k by chunks, compared with sorting all scores."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from precast.compiler.sampling.log_softmax import LogSoftmaxTerms
from precast.compiler.sampling.top_k import best_continuations, best_tokens

VOCABS = st.sampled_from((1, 2, 5, 63, 64, 65, 127, 128, 300))


def random_scores(rows: int, vocab: int, seed: int, forbidden: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, vocab, generator=generator)
    return scores.masked_fill(torch.rand(rows, vocab, generator=generator) < forbidden, -math.inf)


@given(VOCABS, st.data(), st.integers(0, 99), st.sampled_from((0.0, 0.5)))
def test_best_tokens(vocab: int, data: st.DataObject, seed: int, forbidden: float) -> None:
    rows = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    count = data.draw(st.integers(1, vocab))
    scores = random_scores(4, vocab, seed, forbidden)
    score, token = best_tokens(scores, torch.tensor(rows), count)
    expected = scores[rows].sort(dim=-1, descending=True).values[:, :count]
    assert torch.equal(score, expected)
    assert token.max() < vocab
    allowed = score > -math.inf  # forbidden tokens are interchangeable
    assert torch.equal(scores[rows].gather(1, token)[allowed], expected[allowed])
    for row_tokens, row_scores in zip(token, score, strict=True):
        possible = row_tokens[row_scores > -math.inf].tolist()
        assert len(set(possible)) == len(possible)


@given(
    VOCABS, st.integers(1, 3), st.integers(1, 4), st.data(), st.integers(0, 99), st.sampled_from((0.0, 0.5))
)
def test_best_continuations(
    vocab: int, groups: int, beams: int, data: st.DataObject, seed: int, forbidden: float
) -> None:
    each = data.draw(st.integers(1, min(5, vocab)))
    rows = groups * beams
    at = torch.tensor(data.draw(st.permutations(range(rows)))).view(groups, beams)
    renormalize = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))).view_as(at)
    scores = random_scores(rows, vocab, seed, forbidden)
    scores[:, 0] = 0.0  # a row that forbids everything has no log-softmax
    sums = torch.randn(groups, beams, generator=torch.Generator().manual_seed(seed))

    normalizer = LogSoftmaxTerms()(scores, at.flatten(), renormalize.flatten()).unflatten(1, at.shape)
    best = best_continuations(scores, at, sums, normalizer, each)

    logprobs = torch.where(renormalize[..., None], scores[at].log_softmax(dim=-1), scores[at])
    expected = (logprobs + sums[..., None]).flatten(1)
    torch.testing.assert_close(
        best.score, expected.sort(dim=-1, descending=True).values[:, : each * beams], rtol=1e-5, atol=1e-5
    )
    allowed = best.score > -math.inf  # forbidden tokens are interchangeable
    flat = best.beam * vocab + best.token
    torch.testing.assert_close(expected.gather(1, flat)[allowed], best.score[allowed], rtol=1e-5, atol=1e-5)
    best_logprobs = logprobs.flatten(1).gather(1, flat)
    torch.testing.assert_close(best_logprobs[allowed], best.logprob[allowed], rtol=1e-5, atol=1e-5)
    for group in flat[allowed].split(allowed.sum(dim=1).tolist()):
        assert len(group.unique()) == len(group)
