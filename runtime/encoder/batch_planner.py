"""Cuts a queue into batches at minimal total cost, when the cost of a batch by its size is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precast.graphs.costs import Costs

_MARGIN = 0.01
"""Fraction of the cost of the largest batch that is added to each. Costs are measured one after another, on a
machine whose speed drifts, and do not include setting results: one more batch must save more than that."""


def cost_table(costs: Costs, max_tokens: int) -> np.ndarray:
    """Seconds of a batch of 0, 1, … ``max_tokens`` tokens."""
    seconds: np.ndarray = costs.at(np.arange(max_tokens + 1))
    with_margin: np.ndarray = seconds + _MARGIN * seconds[-1]
    return with_margin


def plan_batches(lengths: Sequence[int], max_batch: int, seconds: np.ndarray) -> list[int]:
    """Return how many inputs each batch holds, so that the total cost is minimal.

    Exact dynamic programming: for every input, the best of all batches that end with it. The least cost of
    the inputs before a boundary is stored by the tokens before it, so that all candidates are one addition.

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
    for index in range(1, len(ends)):
        end = ends[index]
        start = max(end - budget, ends[max(0, index - max_batch)])
        found = least[start:end] + backwards[budget - end + start : budget]
        best = int(found.argmin())
        least[end] = found[best]
        begins[index] = start + best
    return _counts(ends, begins)


def _one_batch_is_best(seconds: np.ndarray) -> bool:
    """Whether no smaller batch costs less per token than the largest: then no cut can."""
    per_token = seconds[1:] / np.arange(1, len(seconds))
    return bool(len(seconds) > 1 and per_token[-1] <= per_token.min())


def _counts(ends: Sequence[int], begins: Sequence[int]) -> list[int]:
    """The batches that lead to the last input: ``begins`` are the tokens before the batch that ends there."""
    index_at = {tokens: index for index, tokens in enumerate(ends)}
    counts: list[int] = []
    index = len(ends) - 1
    while index:
        before = index_at[begins[index]]
        counts.append(index - before)
        index = before
    return counts[::-1]
