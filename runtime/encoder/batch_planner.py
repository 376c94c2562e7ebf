"""The cheapest way to cut a queue into batches, when the cost of a batch is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precast.graphs.costs import Costs

_MARGIN = 0.01
"""Each batch is charged so much of the largest. Costs are measured one after another, on a machine whose
speed drifts, and leave out what hands out the answers: a batch more must save more than that."""


def cost_table(costs: Costs, max_tokens: int) -> np.ndarray:
    """Seconds of a batch of 0, 1, … ``max_tokens`` tokens."""
    seconds = costs.at(np.arange(max_tokens + 1))
    return seconds + _MARGIN * seconds[-1]


def plan_batches(lengths: Sequence[int], max_batch: int, seconds: np.ndarray) -> list[int]:
    """How many inputs each batch holds, so that all batches together cost least.

    Exact: for every input, the best of all last batches that end with it. What the inputs before a place cost
    at best is kept by the tokens before it, so that all of them are looked at in one addition.

    Args:
        lengths: tokens of each input, in the order in which they are cut, none above the budget.
        max_batch: inputs of a batch.
        seconds: of a batch by its tokens; the last one is the budget. From ``cost_table``.
    """
    budget = len(seconds) - 1
    ends = [0, *np.cumsum(lengths).tolist()]
    if len(lengths) <= max_batch and ends[-1] <= budget and _one_batch_is_best(seconds[: ends[-1] + 1]):
        return [len(lengths)]
    backwards = seconds[::-1].copy()
    least = np.full(ends[-1] + 1, np.inf)  # infinite within an input
    least[0] = 0
    begins = [0] * len(ends)
    for place in range(1, len(ends)):
        end = ends[place]
        start = max(end - budget, ends[max(0, place - max_batch)])
        found = least[start:end] + backwards[budget - end + start : budget]
        best = int(found.argmin())
        least[end] = found[best]
        begins[place] = start + best
    return _counts(ends, begins)


def _one_batch_is_best(seconds: np.ndarray) -> bool:
    """Whether no smaller batch costs less per token than the largest: then no cut can."""
    per_token = seconds[1:] / np.arange(1, len(seconds))
    return bool(len(seconds) > 1 and per_token[-1] <= per_token.min())


def _counts(ends: Sequence[int], begins: Sequence[int]) -> list[int]:
    """The batches that lead to the last input: ``begins`` are the tokens before the batch that ends there."""
    place_at = {tokens: place for place, tokens in enumerate(ends)}
    counts: list[int] = []
    place = len(ends) - 1
    while place:
        before = place_at[begins[place]]
        counts.append(place - before)
        place = before
    return counts[::-1]
