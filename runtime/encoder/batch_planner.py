"""Cuts a queue into batches of minimal total cost, given the cost of a batch by its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from precast.graphs.costs import Costs

_MARGIN = 0.01
"""Share of the largest batch's cost that is added to every batch. Profiled costs are noisy and do not include
setting results, so one more batch must save at least this much."""


def cost_table(costs: Costs, max_tokens: int) -> np.ndarray:
    """Return the seconds of a batch of 0, 1, … ``max_tokens`` tokens, fp64 ``[max_tokens + 1]``."""
    seconds: np.ndarray = costs.at(np.arange(max_tokens + 1))
    with_margin: np.ndarray = seconds + _MARGIN * seconds[-1]
    return with_margin


def plan_batches(lengths: Sequence[int], max_batch: int, seconds: np.ndarray) -> list[int]:
    """Return the number of inputs in each batch of the split with the least cost.

    Exact dynamic programming: for every input, the best of all batches that end with it. The minimal cost of
    the inputs before a boundary is indexed by their tokens, so that one vector addition compares all
    candidates.

    Args:
        lengths: Tokens of each input in order, none above the budget.
        max_batch: Most inputs of a batch.
        seconds: Seconds of a batch by its tokens, from ``cost_table``; its last index is the budget.
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
        totals = least[start:end] + backwards[budget - end + start : budget]
        best = int(totals.argmin())
        least[end] = totals[best]
        begins[index] = start + best
    return _counts(ends, begins)


def _one_batch_is_best(seconds: np.ndarray) -> bool:
    """Return whether the largest batch has the lowest cost per token, so that splitting cannot help."""
    per_token = seconds[1:] / np.arange(1, len(seconds))
    return bool(len(seconds) > 1 and per_token[-1] <= per_token.min())


def _counts(ends: Sequence[int], begins: Sequence[int]) -> list[int]:
    """Trace the batches back from the last input; ``begins`` are the tokens before the batch ending there."""
    index_at = {tokens: index for index, tokens in enumerate(ends)}
    counts: list[int] = []
    index = len(ends) - 1
    while index:
        before = index_at[begins[index]]
        counts.append(index - before)
        index = before
    return counts[::-1]
